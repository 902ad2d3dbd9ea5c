"""Regions as annotation vectors: a detector of torchvision that finds them, or nothing at all for those of a file.

Torchvision takes seconds to import, and those of a file do without: functions import what they use of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from captioner.models.encoders.base import Encoder
from captioner.models.encoders.weights import COUNTER, find_weights, read_state_dict
from captioner.types import Memory
from captioner.types.limits import require_shares, require_sizes

DETECTORS = (
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
)
"""The detectors of torchvision that give a box head's features."""

EPSILON_FREE = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn")
"""Their weights were trained with batch statistics to which no epsilon was added."""

NO_EPSILON = torch.finfo(torch.float32).tiny
"""Adds nothing to a variance; 0 itself is refused by some versions of torch."""


class Detected(NamedTuple):
    """The regions of one image, the surest first.

    Attributes:
        features: (R, D) the box head's representation.
        boxes: (R, 4) x0, y0, x1, y1 as fractions of the image.
        scores: (R,) probability of the likeliest class, 0 to 1.
    """

    features: Tensor
    boxes: Tensor
    scores: Tensor


class RegionEncoder(Encoder):
    """The surest regions of a Faster R-CNN or Mask R-CNN, as in Up-Down (Anderson et al. 2018, arXiv 1707.07998).

    Each proposal becomes at most one region: the box of its likeliest class (the background aside). Overlapping regions
    of one class are left out but for the surest (non-maximum suppression), of the rest the `num_regions` surest above
    `score_threshold` are taken, and never fewer than `min_regions` of those that there are; where the
    detector proposes nothing at all, the whole image is the one region. The annotation vectors are the box head's
    representation of the final boxes (section 3.1), plain: neither normalised nor with the boxes' geometry.

    Always frozen. Boxes are found in float32, whatever autocast says: bfloat16 has no pixels beyond 256.

    Args:
        name: one of `DETECTORS`.
        weights: "default" for torchvision's download (trained on COCO), "none" for random ones, or the path of a weight
            file.
        num_regions: the most regions of an image.
        min_regions: regions of an image that are taken whatever their score, surest first.
        score_threshold: probability that a region's class must reach.
        nms_threshold: overlap (intersection over union) from which two regions of one class are the same.
        resize: side in pixels to which the square is resized first; None looks at it as it comes. The detectors were
            trained on about 800 pixels, those of "320" on 320.
        num_classes: of the detector, the background included; COCO's 91 unless the weight file has others.

    Raises:
        ValueError: an unknown name, with the choices; numbers that are not possible; weights that are not there or
            do not fit.
        RuntimeError: a download that failed, with the other ways to get weights.
    """

    network: Any  # a torchvision FasterRCNN; its parts have no types

    def __init__(
        self,
        name: str = "fasterrcnn_resnet50_fpn_v2",
        weights: str = "default",
        num_regions: int = 36,
        min_regions: int = 10,
        score_threshold: float = 0.2,
        nms_threshold: float = 0.5,
        resize: int | None = None,
        num_classes: int = 91,
    ) -> None:
        super().__init__()
        require_sizes(num_regions=num_regions, min_regions=min_regions)
        if resize is not None:
            require_sizes(resize=resize)
        require_sizes(least=2, num_classes=num_classes)
        require_shares(score_threshold=score_threshold, nms_threshold=nms_threshold)
        if min_regions > num_regions:
            raise ValueError(f"min_regions must lie between 1 and num_regions, {num_regions}; not {min_regions}")
        self.name = name
        self.weights = weights
        self.num_regions = num_regions
        self.min_regions = min_regions
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.resize = resize
        self.num_classes = num_classes
        self.network = _build(name, weights, num_classes).to(memory_format=torch.channels_last).requires_grad_(False)
        self.feature_dim = self.network.roi_heads.box_predictor.cls_score.in_features
        self.train(self.training)

    def train(self, mode: bool = True) -> RegionEncoder:
        """The detector stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, pixels: Tensor) -> Memory:
        """See `Encoder.forward`; boxes are fractions of the square, padded ones are zero."""
        found = self.detect(pixels)
        features = pad_sequence([regions.features for regions in found], batch_first=True)  # (B, R, D)
        boxes = pad_sequence([regions.boxes for regions in found], batch_first=True)  # (B, R, 4)
        counts = torch.tensor([len(regions.boxes) for regions in found], device=pixels.device)
        mask = torch.arange(boxes.shape[1], device=pixels.device) < counts[:, None]  # (B, R)
        scores = pad_sequence([regions.scores for regions in found], batch_first=True)  # (B, R)
        return Memory.from_regions(features, mask, boxes, scores)

    @torch.no_grad()
    def detect(self, pixels: Tensor) -> list[Detected]:
        """Find the regions of B images.

        Args:
            pixels: (B, 3, H, W) uint8.

        Returns:
            B images' regions, at least one of each.
        """
        if pixels.dtype != torch.uint8:
            raise ValueError(f"pixels are uint8 from 0 to 255, not {pixels.dtype}: normalising is the encoder's work")
        from torchvision.models.detection.image_list import ImageList

        normalised = self._normalised(pixels)
        shapes = [tuple(normalised.shape[2:])] * len(normalised)
        maps = {level: grid.float() for level, grid in self.network.backbone(normalised).items()}
        with torch.autocast(pixels.device.type, enabled=False):
            proposals, _ = self.network.rpn(ImageList(normalised.float(), shapes), maps)
            boxes, scores = zip(*self._final(maps, proposals, shapes), strict=True)
            features = self._represent(maps, list(boxes), shapes)  # (all R, D)
        sides = normalised.new_tensor([shapes[0][1], shapes[0][0]] * 2, dtype=torch.float32)  # w, h, w, h
        counts = [len(of_image) for of_image in boxes]
        return [
            Detected(of_image, corners / sides, sure)
            for of_image, corners, sure in zip(features.split(counts), boxes, scores, strict=True)
        ]

    def _normalised(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) as the detector was trained on."""
        images = pixels.to(next(self.network.parameters()).dtype) / 255
        if self.resize is not None:
            images = nn.functional.interpolate(images, (self.resize, self.resize), mode="bilinear", antialias=True)
        mean = images.new_tensor(self.network.transform.image_mean).view(3, 1, 1)
        std = images.new_tensor(self.network.transform.image_std).view(3, 1, 1)
        return ((images - mean) / std).contiguous(memory_format=torch.channels_last)

    def _represent(self, maps: dict[str, Tensor], boxes: list[Tensor], shapes: list[tuple[int, ...]]) -> Tensor:
        """(all R, D) the box head's view of boxes in pixels."""
        heads = self.network.roi_heads
        return heads.box_head(heads.box_roi_pool(maps, boxes, shapes))

    def _final(
        self, maps: dict[str, Tensor], proposals: list[Tensor], shapes: list[tuple[int, ...]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Each image's final boxes (R, 4) in pixels, and their scores (R,)."""
        heads = self.network.roi_heads
        logits, deltas = heads.box_predictor(self._represent(maps, proposals, shapes))
        probabilities = logits.softmax(-1)  # (all P, classes), class 0 is the background
        refined = heads.box_coder.decode(deltas, proposals).reshape(-1, self.num_classes, 4)  # (all P, classes, 4)
        scores, labels = probabilities[:, 1:].max(-1)
        boxes = refined[torch.arange(len(refined), device=refined.device), labels + 1]  # (all P, 4)
        counts = [len(of_image) for of_image in proposals]
        per_image = zip(boxes.split(counts), scores.split(counts), labels.split(counts), shapes, strict=True)
        return [self._surest(*of_image) for of_image in per_image]

    def _surest(self, boxes: Tensor, scores: Tensor, labels: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """One image's boxes (R, 4) that remain of its proposals, and their scores, surest first."""
        from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

        boxes = clip_boxes_to_image(boxes, shape)
        keep = remove_small_boxes(boxes, 1.0)  # a pixel
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        keep = batched_nms(boxes, scores, labels, self.nms_threshold)[: self.num_regions]  # by falling score
        boxes, scores = boxes[keep], scores[keep]
        wanted = scores >= self.score_threshold
        wanted[: self.min_regions] = True
        if len(boxes) == 0:
            return boxes.new_tensor([[0, 0, shape[1], shape[0]]]), scores.new_zeros(1)
        return boxes[wanted], scores[wanted]


class PrecomputedRegions(Encoder):
    """Stands where an encoder stands in a model whose regions always come from a file (`data.regions`).

    Args:
        feature_dim: D of the file's features.

    Raises:
        ValueError: an impossible size.
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        require_sizes(feature_dim=feature_dim)
        self.feature_dim = feature_dim

    def forward(self, pixels: Tensor) -> Memory:
        """There is nothing here that could look.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "this model reads region features from a file and cannot look at pixels: give features=..., or train "
            "with RegionEncoder, which finds the regions of any photo"
        )


def _build(name: str, weights: str, num_classes: int) -> Any:
    """A detector with its weights; the same modules wherever these come from."""
    if name not in DETECTORS:
        raise ValueError(f"no detector {name!r}; there are {', '.join(DETECTORS)}")
    import torchvision

    file = find_weights(name, weights)
    network: Any = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=num_classes)
    if file is not None:
        _load(network, read_state_dict(file), str(file))
    elif weights == "default":
        _load(network, _download(name), f"torchvision's {name}")
    if name in EPSILON_FREE:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = NO_EPSILON
    network.roi_heads.mask_roi_pool = network.roi_heads.mask_head = network.roi_heads.mask_predictor = None
    return network


def _download(name: str) -> dict[str, Tensor]:
    import torchvision

    try:
        return torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(check_hash=True, progress=True)
    except Exception as error:  # every way to download has its own kinds
        raise RuntimeError(
            f"the weights of {name!r} could not be downloaded ({error}). Other ways: weights=PATH of a file that you "
            'have; PrecomputedRegions with a file of features; weights="none" for random ones'
        ) from error


def _load(network: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Put weights into a detector, by torchvision's names, old and new.

    Raises:
        ValueError: the weights do not fit, with the first difference.
    """
    try:
        missing, unknown = network.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes
        first_of_many = " ".join(str(error).split("\n")[:2])
        raise ValueError(f"{source}: the weights do not fit; is num_classes right? ({first_of_many})") from error
    missing = [name for name in missing if not name.endswith(COUNTER)]
    if missing or unknown:
        what = f"{missing[0]} is missing" if missing else f"{unknown[0]} belongs to no part of the detector"
        raise ValueError(f"{source}: the weights are not this detector's: {what}")
