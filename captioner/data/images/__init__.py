"""Images: opened and found in one way, fitted to the encoder's square, and changed at random in training."""

from captioner.data.images.augmentation import Augmentation
from captioner.data.images.budget import Budget
from captioner.data.images.finding import find_images, is_image
from captioner.data.images.kinds import HEAD, suffix_of
from captioner.data.images.opening import IMAGE_SUFFIXES, MAX_PIXELS, ImageSource, Photo, open_image, open_photo, unread
from captioner.data.images.reading import MAX_BYTES, is_remote
from captioner.data.images.transforms import PAD_VALUE, ImageTransform

__all__ = [
    "HEAD",
    "IMAGE_SUFFIXES",
    "MAX_BYTES",
    "MAX_PIXELS",
    "PAD_VALUE",
    "Augmentation",
    "Budget",
    "ImageSource",
    "ImageTransform",
    "Photo",
    "find_images",
    "is_image",
    "is_remote",
    "open_image",
    "open_photo",
    "suffix_of",
    "unread",
]
