"""Images: opened and found in one way, fitted to the encoder's square, and changed at random in training."""

from captioner.data.images.augmentation import Augmentation
from captioner.data.images.finding import find_images
from captioner.data.images.opening import IMAGE_SUFFIXES, MAX_PIXELS, ImageSource, Photo, open_image, open_photo
from captioner.data.images.transforms import PAD_VALUE, ImageTransform

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "PAD_VALUE",
    "Augmentation",
    "ImageSource",
    "ImageTransform",
    "Photo",
    "find_images",
    "open_image",
    "open_photo",
]
