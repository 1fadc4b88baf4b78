"""The table: every structure of the zoo, by name."""

from collections.abc import Iterable

from tests.zoo import joined, mobile, norms, pieces, plain, residual, shuffled, walls
from tests.zoo.case import Case

IMAGE = ((3, 16, 16),)
IMAGE32 = ((3, 32, 32),)
ALL = ("Conv2d", "Linear")
OUTPUT = "makes an output of the model"


def resnet18(width: int = 64, classes: int = 1000) -> residual.ResNet:
    return residual.ResNet(residual.Basic, (2, 2, 2, 2), width, classes)


def resnet50(width: int = 64, classes: int = 1000) -> residual.ResNet:
    return residual.ResNet(residual.Bottleneck, (3, 4, 6, 3), width, classes)


def resnext(width: int = 8, classes: int = 10) -> residual.ResNet:
    return residual.ResNet(residual.Bottleneck, (1, 1, 1, 1), width, classes, groups=4)


def se_resnet(width: int = 8, classes: int = 10) -> residual.ResNet:
    return residual.ResNet(residual.Basic, (1, 1, 1, 1), width, classes, se=True)


def bundles(size: int, names: str, numbers: Iterable[int] = (0,)) -> dict[str, int]:
    """Layers whose units go in bundles of one size; `{}` in a name stands for each number."""
    return {name.format(number): size for name in names.split() for number in numbers}


def walled(name: str, build: type[walls.Walled], barrier: str, notes: str = "") -> Case:
    return Case(name, build, IMAGE, keeps={"conv2": f"{barrier} reads its channels"}, barriers=(barrier,), notes=notes)


PLAIN = (
    Case("vgg_flatten", plain.VGG, IMAGE32, ALL, exclude=("head",)),
    Case(
        "literal_view",
        plain.LiteralView,
        ((1, 28, 28),),
        ALL,
        exclude=("fc2",),
        same_class=False,
        notes="view(-1, 256)",
    ),
    Case("width_attribute", plain.WidthAttribute, IMAGE),
    Case("pools", plain.Pools, IMAGE),
    Case("dropout", plain.Dropped, IMAGE, ALL, exclude=("fc2",)),
    Case("conv1d", lambda: plain.Line(1), ((2, 40),), ("Conv1d",)),
    Case("conv3d", lambda: plain.Line(3), ((2, 8, 8, 8),), ("Conv3d",)),
)
RESIDUAL = (
    Case("resnet18", lambda: resnet18(8, 10), IMAGE32),
    Case("resnet50", lambda: resnet50(4, 10), IMAGE32),
    Case("resnet20", lambda: residual.ResNet20(8), IMAGE),
    Case(
        "resnet20_padded",
        lambda: residual.ResNet20(8, padded=True),
        IMAGE,
        barriers=("pad", "whose size is fixed"),
        grain=bundles(33, "conv1") | bundles(33, "layer1.{0}.conv2 layer2.{0}.conv2 layer3.{0}.conv2", range(3)),
        notes="zeros padded along the channels: the residual stream may be kept whole",
    ),
    Case("preact_resnet", residual.PreActResNet, IMAGE),
    Case("resnext", resnext, IMAGE32, grain=bundles(4, "layer{}.0.conv1 layer{}.0.conv2", range(1, 5))),
    Case("se_resnet", se_resnet, IMAGE32, ALL, exclude=("fc",)),
)
JOINED = (
    Case("densenet", joined.DenseNet, IMAGE),
    Case("unet", joined.UNet, IMAGE, ("Conv2d", "ConvTranspose2d"), keeps={"outc": OUTPUT}),
    Case("inception", joined.Inception, IMAGE32),
    Case("fpn", joined.FPN, IMAGE32, keeps={"classes": OUTPUT, "boxes": OUTPUT}),
)
MOBILE = (
    Case("mobilenet_v2", mobile.MobileNetV2, IMAGE32),
    Case("mobilenet_v3", mobile.MobileNetV3, IMAGE32, ALL, exclude=("head",)),
    Case("depthwise_separable", mobile.DepthwiseSeparable, IMAGE, grain={"depthwise2": 2}),
    Case("linear_bottleneck", mobile.LinearBottleneck, IMAGE),
)
SHUFFLED = (
    Case("shufflenet_v1", shuffled.ShuffleNetV1, IMAGE, grain={"*": 4}),
    Case(
        "shufflenet_v2",
        shuffled.ShuffleNetV2,
        IMAGE,
        grain={"stage2.0.branch1.2": 2, "stage2.0.branch2.5": 2, "stage2.1.branch2.5": 3, "stage2.2.branch2.5": 4},
        notes="each shuffle couples what passes by with two new channels, and no half may be emptied",
    ),
    Case("channel_shuffle", shuffled.ShuffleModule, ((4, 12, 12),), grain={"conv1": 2}),
    Case(
        "pixel_shuffle",
        shuffled.SuperResolution,
        IMAGE,
        keeps={"conv4": OUTPUT},
        grain={"conv2": 4},
        barriers=("pixel_shuffle",),
        notes="the four places of a pixel are rows of conv2, and their number is fixed",
    ),
    Case(
        "grouped_transposed",
        shuffled.GroupedTransposed,
        IMAGE,
        ("Conv2d", "ConvTranspose2d"),
        exclude=("conv3",),
        grain={"*": 2},
    ),
    Case(
        "square_shuffle", shuffled.SquareShuffle, IMAGE, grain={"conv1": 4}, same_class=False, notes="whole groups go"
    ),
    Case("narrow_branch", shuffled.NarrowBranch, IMAGE, same_class=False, notes="the sizes of the split are literals"),
    Case("unequal_split", shuffled.UnequalSplit, IMAGE, same_class=False, notes="the sizes of the split are literals"),
)
PIECES = (
    Case("shared_conv", pieces.SharedConv, IMAGE),
    Case("shared_tower", pieces.SharedTower, IMAGE),
    Case("tied_linear", pieces.TiedLinear, ((8,),), ("Linear",), exclude=("out",)),
    Case("tied_autoencoder", pieces.TiedAutoencoder, ((10,),), ("Linear",)),
    Case("activations", pieces.Activations, IMAGE),
    Case("raw_scale", pieces.RawScale, IMAGE),
    Case("gated", pieces.Gated, IMAGE, grain={"glu": 2}),
    Case("in_place", pieces.InPlace, IMAGE),
    Case("two_inputs", pieces.TwoInputs, {"image": (3, 12, 12), "vector": (6,)}, ALL, exclude=("fc",)),
    Case("two_outputs", pieces.TwoOutputs, IMAGE, keeps={"mask": OUTPUT}),
)
NORMS = (
    Case("functional_norm", norms.FunctionalNorm, IMAGE),
    Case("plain_norm", norms.PlainNorm, IMAGE),
    Case("group_norm", norms.GroupNormed, IMAGE, grain={"conv1": 4}, barriers=("group_norm in norm1",)),
    Case("layer_norm_mlp", norms.LayerNormMLP, ((8,),), ("Linear",), exclude=("out",)),
    Case("instance_norm", norms.InstanceNormed, IMAGE),
)
WALLS = (
    walled("sort_wall", walls.SortWall, "sort"),
    walled("fourier_wall", walls.FourierWall, "fft"),
    walled("softmax_wall", walls.SoftmaxWall, "softmax"),
    walled("inverse_wall", walls.InverseWall, "linalg_inv"),
    walled("cumsum_wall", walls.CumsumWall, "cumsum"),
    walled("opaque_wall", walls.OpaqueWall, "rolled"),
    Case("custom_function", walls.CustomFunction, IMAGE, notes="no wall: export sees through the function"),
)
CASES = PLAIN + RESIDUAL + JOINED + MOBILE + SHUFFLED + PIECES + NORMS + WALLS
BY_NAME = {case.name: case for case in CASES}
