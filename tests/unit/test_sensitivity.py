"""The scores of a scan against a loop written by hand; tables, files, plots, and the config that comes of it."""

import csv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from fprune import Config, Model, Sensitivity, apoz, dependency_aware, evaluate, globally, l1, level, one_shot, scan
from fprune.errors import CompositionError, ConfigError, ConfigTypeError, StageError
from fprune.sensitivity import Point, sensitivity
from fprune.setting import Setting
from fprune.tree import digest

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
RATIOS = (0.25, 0.5, 0.75)


class Residual(nn.Module):
    """Two layers whose channels are added, one between them, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.third, self.head = nn.Conv2d(4, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(x + self.third(torch.relu(self.second(x))))
        return self.head(x.mean((2, 3)))


def net() -> nn.Module:
    torch.manual_seed(0)
    return Residual()


NET = net()
TARGET = NET(X).argmax(1)


def margin(module: nn.Module) -> float:
    return -torch.nn.functional.cross_entropy(module(X), TARGET).item()


def by_hand(stage: object, names: list[str], rules: list[dict[str, object]]) -> dict[tuple[str, float], float]:
    """Mask and evaluate, layer by layer and ratio by ratio."""
    found = {}
    for name in names:
        for ratio in RATIOS:
            model = Model.from_module(NET)
            config = [*rules, {"op_names": name.split(" + "), "sparsity": ratio}]
            masks = stage.masks(model, config, example_inputs=(X[:1],))
            with torch.no_grad():
                found[name, ratio] = margin(model.replace(masks.apply(model)).to_module().eval())
    return found


@pytest.mark.filterwarnings("ignore::fprune.errors.TiedScores")  # outputs that no activation makes zero are alike
@pytest.mark.parametrize(
    ("make", "names"),
    [
        (l1, ["first", "second", "third", "head"]),
        (level, ["first", "second", "third", "head"]),
        (lambda: apoz(lambda model, x: model(x), [X]), ["first", "second", "third", "head"]),
        # what meets in the sum is one layer, and the outputs of the model cannot go
        (lambda: l1(dependency_aware), ["first + third", "second"]),
        (lambda: l1(globally), ["first", "second", "third", "head"]),
    ],
)
def test_scores_are_those_of_a_loop(make: Callable, names: list[str]) -> None:
    stage = make()
    before = digest(Model.from_module(NET))
    found = sensitivity(NET, margin, pruner=stage, ratios=RATIOS, example_inputs=(X[:1],))
    assert digest(Model.from_module(NET)) == before
    assert found.score == margin(NET)
    assert {(row.layer, row.ratio): row.score for row in found} == by_hand(stage, names, [])
    assert [(row.layer, row.ratio) for row in found] == [(name, ratio) for name in names for ratio in RATIOS]
    assert all(row.drop == found.score - row.score for row in found)
    assert len({row.score for row in found}) > len(found) // 2, "the scores tell layers and ratios apart"


def test_l1_is_the_pruner_when_none_is_given() -> None:
    assert sensitivity(NET, margin, ratios=RATIOS) == sensitivity(NET, margin, ratios=RATIOS, pruner=l1())


def test_an_executor_makes_no_difference() -> None:
    pruner = l1(dependency_aware)
    alone = sensitivity(NET, margin, pruner=pruner, ratios=RATIOS, example_inputs=(X[:1],))
    with ThreadPoolExecutor(3) as pool:
        together = sensitivity(NET, margin, pruner=pruner, ratios=RATIOS, example_inputs=(X[:1],), executor=pool)
    assert together == alone


def test_rules_select_bound_and_exclude() -> None:
    rules = [
        {"op_types": ["Conv2d"], "sparsity": 0.9, "max_sparsity_per_layer": {"second": 0.5}},
        {"op_names": ["third"], "exclude": True},
    ]
    found = sensitivity(NET, margin, rules, ratios=RATIOS)
    assert [(row.layer, row.ratio) for row in found] == [
        ("first", 0.25),
        ("first", 0.5),
        ("first", 0.75),
        ("second", 0.25),
        ("second", 0.5),
    ]
    assert {(r.layer, r.ratio): r.score for r in found.of("first")} == by_hand(l1(), ["first"], [])
    # first is coupled to third, which stays
    coupled = sensitivity(NET, margin, rules, pruner=l1(dependency_aware), ratios=(0.5,), example_inputs=(X[:1],))
    assert coupled.layers == ("second",)
    assert coupled.config(99.0).resolve(NET_MODEL)["third"].excluded


NET_MODEL = Model.from_module(NET)


def test_granularities_and_multiples_stay() -> None:
    rules = [{"op_names": ["second"], "total_sparsity": 0.1, "round_to": 4}]
    found = sensitivity(NET, margin, rules, pruner=l1(dependency_aware), ratios=RATIOS, example_inputs=(X[:1],))
    assert [row.drop for row in found] == [0.0, 0.0, 0.0]  # four channels, kept in multiples of four
    assert found.config(0.0).rules[-1].round_to == 4


def test_the_goals_of_a_scan() -> None:
    setting = Setting.of(NET, 0.5)
    goals = scan((0.5,)).goals(Config(0.5), setting=setting)
    assert [goal.config for goal in goals] == [
        Config(0.0),
        *(Config({"op_names": [name], "sparsity": 0.5}) for name in ("first", "second", "third", "head")),
    ]
    assert all(goal.start == "origin" and not goal.final for goal in goals)
    coupled = Setting.of(NET, 0.5, example_inputs=(X[:1],))
    groups = scan((0.5,)).goals(Config(0.5), setting=coupled)
    assert [[rule.op_names for rule in goal.config.rules] for goal in groups[1:]] == [
        [("first",), ("third",)],
        [("second",)],
    ]


def test_a_scan_is_a_schedule_like_any_other() -> None:
    results = list((scan((0.5,)) | l1() | evaluate(margin)).stream(NET, 0.5))
    found = sensitivity(NET, margin, ratios=(0.5,))
    assert [result.score for result in results] == [found.score, *(row.score for row in found)]


def point(name: str, ratio: float, score: float) -> Point:
    return Point(Config({"op_names": [name], "sparsity": ratio}), score, 1.0 - score)


TABLE = Sensitivity(
    1.0,
    [
        point("a", 0.25, 0.875),
        point("a", 0.5, 0.75),
        point("b", 0.25, 0.5),
        point("b", 0.5, 0.9375),
        point("c", 0.25, 0.125),
    ],
)


def test_the_largest_ratio_within_a_drop_for_every_layer() -> None:
    def chosen(drop: float) -> dict[tuple[str, ...], float | None]:
        return {rule.op_names: rule.sparsity for rule in TABLE.config(drop).rules}

    assert chosen(0.25) == {("a",): 0.5, ("b",): 0.5}
    assert chosen(0.125) == {("a",): 0.25, ("b",): 0.5}
    assert chosen(1.0) == {("a",): 0.5, ("b",): 0.5, ("c",): 0.25}
    with pytest.raises(ConfigError, match=r"costs more than 0\nhint: the least is 0.0625"):
        TABLE.config(0)
    with pytest.raises(ConfigError, match="at least 0, got -1"):
        TABLE.config(-1)
    with pytest.raises(ConfigTypeError, match="got 'a'"):
        TABLE.config("a")


def test_the_config_of_a_scan_can_be_run() -> None:
    found = sensitivity(NET, margin, pruner=l1(dependency_aware), ratios=RATIOS, example_inputs=(X[:1],))
    config = found.config(99.0)
    result = (one_shot() | l1(dependency_aware)).run(NET, config, example_inputs=(X[:1],))
    assert {name: gone.fraction for name, gone in result.report.channels.items()} == {
        "first.weight": 0.75,
        "second.weight": 0.75,
        "third.weight": 0.75,
    }


def test_points_are_looked_up_by_layer() -> None:
    assert [row.ratio for row in TABLE.of("b")] == [0.25, 0.5]
    assert TABLE.layers == ("a", "b", "c")
    assert TABLE.ratios == (0.25, 0.5)
    with pytest.raises(ConfigError, match="no layer 'd'"):
        TABLE.of("d")
    pair = Point(Config([{"op_names": [name], "sparsity": 0.5} for name in "xy"]), 0.0, 1.0)
    assert Sensitivity(1.0, [pair]).of("y") == Sensitivity(1.0, [pair]).of("x + y") == (pair,)


def test_a_table_is_text_html_and_csv(tmp_path) -> None:
    assert repr(TABLE) == "Sensitivity(3 layers, 5 points, score 1)"
    assert str(TABLE).splitlines()[3:] == ["a        0.125  0.25", "b        0.5    0.0625", "c        0.875"]
    assert TABLE._repr_html_().count("<tr>") == 4
    TABLE.to_csv(tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="") as file:
        header, first, *rows = csv.reader(file)
    assert header == ["layer", "ratio", "score", "drop"]
    assert (first[0], *map(float, first[1:])) == ("", 0.0, 1.0, 0.0)
    read = [(row[0], *map(float, row[1:])) for row in rows]
    assert read == [(row.layer, row.ratio, row.score, row.drop) for row in TABLE]


def test_a_plot_has_a_line_for_every_layer() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    axes = TABLE.plot()
    lines = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.get_lines()}
    assert lines["a"] == [(0.25, 0.875), (0.5, 0.75)]
    assert lines["c"] == [(0.25, 0.125)]
    assert [y for _, y in lines["unpruned"]] == [1.0, 1.0]
    assert TABLE.plot(axes=axes) is axes
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"ratios": ()}, ConfigError, "growing"),
        ({"ratios": (0.5, 0.25)}, ConfigError, "growing"),
        ({"ratios": (0.5, 0.5)}, ConfigError, "growing"),
        ({"ratios": (0.0, 0.5)}, ConfigError, r"\(0, 1\), got 0.0"),
        ({"ratios": (0.5, 1)}, ConfigError, r"\(0, 1\), got 1"),
        ({"ratios": (True,)}, ConfigTypeError, "got True"),
        ({"pruner": l1}, CompositionError, r"expected a stage, got l1\nhint: call it: pruner=l1\(\)"),
        ({"pruner": evaluate(margin)}, CompositionError, "prunes nothing"),
        ({"pruner": l1(dependency_aware)}, CompositionError, "example_inputs"),
        ({"ratios": 0.5}, ConfigTypeError, "expected numbers, got 0.5"),
    ],
)
def test_what_is_refused(options: dict[str, object], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        sensitivity(NET, margin, **{"ratios": (0.5,), **options})


def test_a_failing_evaluator_is_named() -> None:
    with pytest.raises(StageError, match="what broken returned"):
        sensitivity(NET, broken, ratios=(0.5,))


def broken(module: nn.Module) -> float:
    return float("nan")
