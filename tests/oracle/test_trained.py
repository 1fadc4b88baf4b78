"""slim, admm and movement against loops written out by hand, step by step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fprune.allocate import dependency_aware, globally, per_layer
from fprune.compose.prune import traced
from fprune.config import Config
from fprune.inputs import Inputs
from fprune.masks import Masks
from fprune.model import Model
from fprune.pruners import admm, movement, slim
from fprune.scope import Scope
from fprune.trained import Trained

X = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))
BATCHES = [(x, x[:, :2] - 0.5) for x in X]
IMAGES = [x.reshape(3, 1, 3, 2) for x in X]


def loss(module: Callable[[Tensor], Tensor], batch: Any) -> Tensor:
    x, target = batch
    return (module(x) - target).square().mean()


def size(module: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    return module(batch).square().mean()


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))


def normed(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.GroupNorm(1, 6), nn.Flatten()
    )
    for value in (net[1].weight, net[4].weight):
        value.data = torch.linspace(0.1, 1, len(value)) * torch.tensor([1, -1, 1, -1, 1, -1])[: len(value)]
    return net


def descent(rate: float, **options: float) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    return lambda params: torch.optim.SGD(params, lr=rate, **options)


def outcome(factory: Any, params: Any, config: Any, *args: Any, **options: Any) -> Trained:
    found = factory.fn(params, Config.of(config), *args, **options)
    assert isinstance(found, Trained)
    return found


def lowest(scores: Tensor, k: int) -> Tensor:
    """True for what stays."""
    kept = torch.ones(scores.numel(), dtype=torch.bool)
    kept[scores.flatten().argsort(stable=True)[:k]] = False
    return kept.reshape(scores.shape)


# --- slim


def shrunk_by_hand(net: nn.Module, scale: float, epochs: int) -> nn.Module:
    net.train()
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in IMAGES:
            adam.zero_grad()
            size(net, batch).backward()
            for gamma in (net[1].weight, net[4].weight):
                gamma.grad += scale * gamma.detach().sign()
            adam.step()
    return net


CONVOLUTIONS = [{"op_types": ["Conv2d"], "sparsity": 0.5}]


def test_slim_trains_with_the_penalty_on_the_norms_that_follow() -> None:
    found = outcome(
        slim,
        Scope.of(Model.from_module(normed().eval()), example_inputs=(IMAGES[0],)),
        CONVOLUTIONS,
        size,
        IMAGES,
        epochs=2,
        scale=0.5,
    )
    by_hand = shrunk_by_hand(normed(), 0.5, 2)
    assert found.model.params == Model.from_module(by_hand).params
    assert found.model.buffers == Model.from_module(by_hand).buffers
    kept = lowest(torch.cat([by_hand[1].weight, by_hand[4].weight]).abs(), 5)
    assert torch.equal(found.masks["0.weight"].flatten(), kept[:4])
    assert torch.equal(found.masks["3.bias"], kept[4:])


def test_slim_of_the_norms_themselves_needs_no_structure() -> None:
    config = [{"op_types": ["BatchNorm2d", "GroupNorm"], "sparsity": 0.5}]
    found = outcome(slim, Model.from_module(normed()), config, size, IMAGES, epochs=2, scale=0.5)
    by_hand = shrunk_by_hand(normed(), 0.5, 2)
    assert found.model.params == Model.from_module(by_hand).params
    kept = lowest(torch.cat([by_hand[1].weight, by_hand[4].weight]).abs(), 5)
    assert torch.equal(torch.cat([found.masks["1.weight"], found.masks["4.weight"]]), kept)


def test_the_penalty_is_the_gradient_of_scale_times_the_sum_of_absolute_factors() -> None:
    net, by_hand = normed(), normed().train()
    sgd = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for batch in IMAGES:
        sgd.zero_grad()
        (size(by_hand, batch) + 0.3 * (by_hand[1].weight.abs().sum() + by_hand[4].weight.abs().sum())).backward()
        sgd.step()
    scope = Scope.of(Model.from_module(net), example_inputs=(IMAGES[0],))
    found = outcome(slim, scope, CONVOLUTIONS, size, IMAGES, scale=0.3, optimizer=descent(0.1))
    for name, value in by_hand.named_parameters():
        torch.testing.assert_close(found.model[name], value.detach(), rtol=1e-5, atol=1e-6)


def accumulating(module: nn.Module, extra: Callable[[nn.Module], None] = lambda _: None) -> None:
    """Two batches a step, clipped, with a scheduler: a loop that only its user knows."""
    sgd = torch.optim.SGD(module.parameters(), lr=0.2, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(sgd, 0.5)
    for first, second in ((0, 1), (2, 3)):
        sgd.zero_grad()
        for batch in (IMAGES[first], IMAGES[second]):
            (size(module, batch) / 2).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 0.1)
        extra(module)
        sgd.step()
        schedule.step()


def test_of_accumulated_gradients_the_penalty_counts_once_a_step() -> None:
    def add(module: nn.Module) -> None:
        for gamma in (module[1].weight, module[4].weight):
            gamma.grad += 0.5 * gamma.detach().sign()

    scope = Scope.of(Model.from_module(normed()), example_inputs=(IMAGES[0],))
    found = outcome(slim, scope, CONVOLUTIONS, train=accumulating, scale=0.5)
    by_hand = normed()
    accumulating(by_hand, add)
    assert found.model.params == Model.from_module(by_hand).params
    assert found.metrics == {}


def test_learned_factors_are_trained_with_the_weights_and_folded() -> None:
    net = mlp().train()
    layers = (net[0], net[2])
    gates = [torch.ones(8, requires_grad=True), torch.ones(2, requires_grad=True)]
    sgd = torch.optim.SGD([*net.parameters(), *gates], lr=0.1)
    for x, target in BATCHES:
        sgd.zero_grad()
        hidden = torch.tanh(F.linear(x, layers[0].weight * gates[0][:, None], layers[0].bias * gates[0]))
        out = F.linear(hidden, layers[1].weight * gates[1][:, None], layers[1].bias * gates[1])
        ((out - target).square().mean() + 0.5 * sum(gate.abs().sum() for gate in gates)).backward()
        sgd.step()
    found = outcome(
        slim, Model.from_module(mlp()), 0.5, loss, BATCHES, factors="learned", scale=0.5, optimizer=descent(0.1)
    )
    for layer, gate, name in zip(layers, gates, ("0", "2"), strict=True):
        torch.testing.assert_close(found.model[f"{name}.weight"], (layer.weight * gate[:, None]).detach())
        torch.testing.assert_close(found.model[f"{name}.bias"], (layer.bias * gate).detach())
    kept = lowest(torch.cat([gate.detach().abs() for gate in gates]), 5)
    if not kept[8:].any():  # a layer keeps its last channel
        pytest.fail("the seed makes the test ambiguous")
    assert torch.equal(found.masks["0.bias"], kept[:8])
    assert torch.equal(found.masks["2.bias"], kept[8:])


# --- admm


def split_by_hand(
    net: nn.Module, sparsity: float, rho: float, iterations: int
) -> tuple[list[float], dict[str, Tensor]]:
    """Two epochs of descent in each iteration; returns the residuals and the last U."""
    weights = {"0.weight": net[0].weight, "2.weight": net[2].weight}
    k = {name: int(sparsity * weight.numel() + 1e-9) for name, weight in weights.items()}
    sparse = {name: w.detach() * lowest(w.detach().abs(), k[name]) for name, w in weights.items()}
    dual = {name: torch.zeros_like(w.detach()) for name, w in weights.items()}
    residuals = []
    for _ in range(iterations):
        sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        for x, target in BATCHES * 2:
            sgd.zero_grad()
            value = (net(x) - target).square().mean()
            for name, weight in weights.items():
                value = value + rho / 2 * (weight - sparse[name] + dual[name]).square().sum()
            value.backward()
            sgd.step()
        for name, weight in weights.items():
            total = weight.detach() + dual[name]
            sparse[name] = total * lowest(total.abs(), k[name])
            dual[name] = dual[name] + weight.detach() - sparse[name]
        gap = sum((w.detach() - sparse[name]).square().sum() for name, w in weights.items())
        residuals.append(float((gap / sum(w.detach().square().sum() for w in weights.values())).sqrt()))
    return residuals, dual


def test_admm_is_the_paper_written_out() -> None:
    net = mlp()
    residuals, dual = split_by_hand(net, 0.5, 0.3, 3)
    found = outcome(
        admm, Model.from_module(mlp()), 0.5, loss, BATCHES, iterations=3, epochs=2, rho=0.3, optimizer=descent(0.1)
    )
    for name, value in net.named_parameters():
        torch.testing.assert_close(found.model[name], value.detach(), rtol=1e-4, atol=1e-6)
    assert [found.metrics[f"admm/residual/{i}"] for i in (1, 2, 3)] == pytest.approx(residuals, rel=1e-4)
    assert any(value.any() for value in dual.values())
    for name, count in (("0.weight", 24), ("2.weight", 8)):
        assert torch.equal(found.masks[name], lowest(found.model[name].abs(), count)), "the final masks are those of W"


def test_admm_calls_the_users_function_once_in_each_iteration() -> None:
    calls = []

    def train(module: nn.Module) -> dict[str, float]:
        calls.append(module)
        sgd = torch.optim.SGD(module.parameters(), lr=0.1)
        for batch in BATCHES * 2:
            sgd.zero_grad()
            loss(module, batch).backward()
            sgd.step()
        return {"calls": len(calls)}

    ours = outcome(admm, Model.from_module(mlp()), 0.5, train=train, iterations=3, rho=0.3)
    theirs = outcome(
        admm, Model.from_module(mlp()), 0.5, loss, BATCHES, iterations=3, epochs=2, rho=0.3, optimizer=descent(0.1)
    )
    assert (len(calls), ours.metrics["calls"]) == (3, 3.0)
    assert ours.model.params == theirs.model.params
    assert ours.masks == theirs.masks


def test_weights_that_are_where_they_should_be_stay_finite() -> None:
    """The norm itself, without the square, has no gradient at W = Z - U: every weight would become NaN."""

    def still(module: nn.Module) -> None:
        sgd = torch.optim.SGD(module.parameters(), lr=0.1)
        for param in module.parameters():
            param.grad = torch.zeros_like(param)
        sgd.step()

    found = outcome(admm, Model.from_module(mlp()), 0.0, train=still, iterations=2, rho=0.5)
    assert found.model.params == Model.from_module(mlp()).params
    assert found.metrics["admm/residual/2"] == 0.0


def test_admm_pulls_channels_with_their_bias() -> None:
    model = Model.from_module(mlp())
    config = [{"op_names": ["0"], "sparsity": 0.5}]
    options = {"iterations": 4, "epochs": 30, "rho": 1.0, "granularity": "channel", "optimizer": descent(0.1)}
    found = outcome(admm, model, config, loss, BATCHES, **options)
    gone = ~found.masks["0.bias"]
    assert int(gone.sum()) == 4
    before, after = (m["0.weight"][gone].norm() + m["0.bias"][gone].norm() for m in (model, found.model))
    assert after < 0.3 * before
    assert found.metrics["admm/residual/4"] < found.metrics["admm/residual/1"]


# --- movement


def moved_by_hand(
    net: nn.Module, sparsity: float, fractions: list[float], rate: float, momentum: float
) -> dict[str, Tensor]:
    """Explicit gradients of W * M for the weights and through M for the scores; masked weights stay as they are."""
    weights = {"0.weight": net[0].weight, "2.weight": net[2].weight}
    scores = {name: torch.zeros_like(w.detach()) for name, w in weights.items()}
    sgd = torch.optim.SGD(net.parameters(), lr=rate, momentum=momentum)
    for step, fraction in enumerate(fractions):
        x, target = BATCHES[step % len(BATCHES)]
        masks = {n: lowest(s, int(sparsity * fraction * s.numel() + 1e-9)) for n, s in scores.items()}
        gated = {n: (w.detach() * masks[n]).requires_grad_() for n, w in weights.items()}
        sgd.zero_grad()
        out = F.linear(torch.tanh(F.linear(x, gated["0.weight"], net[0].bias)), gated["2.weight"], net[2].bias)
        (out - target).square().mean().backward()
        old = {n: w.detach().clone() for n, w in weights.items()}
        for n, w in weights.items():
            w.grad = gated[n].grad * masks[n]
        sgd.step()
        for n, w in weights.items():
            scores[n] -= gated[n].grad * old[n]
            w.data = torch.where(masks[n], w.data, old[n])
    return scores


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_movement_is_the_straight_through_estimator_written_out(momentum: float) -> None:
    net = mlp()
    u = [(t / 8 - 0.25) / 0.5 for t in range(8)]
    fractions = [1 - (1 - min(max(value, 0.0), 1.0)) ** 3 for value in u]
    assert fractions[:3] == [0.0, 0.0, 0.0]
    assert fractions[4] == 0.875
    assert fractions[6:] == [1.0, 1.0]
    scores = moved_by_hand(net, 0.5, fractions, 0.1, momentum)
    found = outcome(
        movement,
        Model.from_module(mlp()),
        0.5,
        loss,
        BATCHES,
        epochs=2,
        warm_up=0.25,
        cool_down=0.25,
        optimizer=descent(0.1, momentum=momentum),
    )
    for name, value in net.named_parameters():
        torch.testing.assert_close(found.model[name], value.detach(), rtol=1e-5, atol=1e-6)
    for name, score in scores.items():
        assert torch.equal(found.masks[name], lowest(score, score.numel() // 2))


def test_the_rate_of_the_scores_makes_no_difference_in_hard_mode() -> None:
    found = [
        outcome(movement, Model.from_module(mlp()), 0.5, loss, BATCHES, score_optimizer=descent(rate))
        for rate in (1.0, 4.0)
    ]
    assert found[0].masks == found[1].masks
    assert found[0].model == found[1].model


def test_soft_movement_masks_below_a_threshold_and_is_penalised() -> None:
    tau, weight, rate = 0.45, 3.0, 20.0
    net = mlp()
    weights = {"0.weight": net[0].weight, "2.weight": net[2].weight}
    scores = {n: torch.zeros_like(w.detach()) for n, w in weights.items()}
    total = sum(s.numel() for s in scores.values())
    seen = 0
    for step in range(8):
        x, target = BATCHES[step % 4]
        fraction = 1 - (1 - step / 8) ** 3
        masks = {n: s.sigmoid() > tau for n, s in scores.items()}
        seen += sum(int((~m).sum()) for m in masks.values())
        gated = {n: (w.detach() * masks[n]).requires_grad_() for n, w in weights.items()}
        out = F.linear(torch.tanh(F.linear(x, gated["0.weight"], net[0].bias)), gated["2.weight"], net[2].bias)
        value = (out - target).square().mean()
        biases = torch.autograd.grad(value, [net[0].bias, net[2].bias, *gated.values()])
        with torch.no_grad():
            for n, grad in zip(gated, biases[2:], strict=True):
                closed = scores[n].sigmoid()
                scores[n] -= rate * (grad * weights[n] + weight * fraction * closed * (1 - closed) / total)
                weights[n] -= 0.1 * grad * masks[n]
            net[0].bias -= 0.1 * biases[0]
            net[2].bias -= 0.1 * biases[1]
    assert seen > 0, "something is masked on the way"
    options = {"mode": "soft", "tau": tau, "penalty": weight, "warm_up": 0.0, "cool_down": 0.0, "epochs": 2}
    found = outcome(
        movement,
        Model.from_module(mlp()),
        0.75,
        loss,
        BATCHES,
        **options,
        optimizer=descent(0.1),
        score_optimizer=descent(rate),
    )
    for name, value in net.named_parameters():
        torch.testing.assert_close(found.model[name], value.detach(), rtol=1e-4, atol=1e-6)
    for name, score in scores.items():
        assert torch.equal(found.masks[name], lowest(score, score.numel() * 3 // 4)), "the count is exact at the end"


def test_channels_are_scored_by_the_sum_with_their_bias() -> None:
    net, config = mlp(), [{"op_names": ["0"], "sparsity": 0.5}]
    scores = torch.zeros(8)
    for x, target in BATCHES:
        weight, bias = net[0].weight, net[0].bias
        grads = torch.autograd.grad(loss(net, (x, target)), [weight, bias, net[2].weight, net[2].bias])
        with torch.no_grad():
            scores -= (grads[0] * weight).sum(1) + grads[1] * bias
            for param, grad in zip((weight, bias, net[2].weight, net[2].bias), grads, strict=True):
                param -= 0.1 * grad
    found = outcome(
        movement,
        Model.from_module(mlp()),
        config,
        loss,
        BATCHES,
        epochs=1,
        warm_up=0.99,
        cool_down=0.0,
        granularity="channel",
        optimizer=descent(0.1),
    )
    assert torch.equal(found.masks["0.bias"], lowest(scores, 4))
    assert torch.equal(found.masks["0.weight"].flatten(), lowest(scores, 4))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 8) for _ in range(3))
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x[None]).unflatten(-1, (4, 2)).transpose(1, 2) for m in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))[0]


def test_heads_are_scored_by_the_sum_over_all_their_slices() -> None:
    torch.manual_seed(0)
    net = Attention()
    model = Model.from_module(net)
    scores = torch.zeros(4)
    for x, target in BATCHES:
        named = dict(net.named_parameters())
        grads = dict(zip(named, torch.autograd.grad(loss(net, (x, target)), list(named.values())), strict=True))
        with torch.no_grad():
            for name, param in named.items():
                terms = grads[name] * param
                if name == "out.weight":
                    scores -= terms.sum(0).reshape(4, 2).sum(1)
                elif name != "out.bias":
                    scores -= terms.reshape(8, -1).sum(1).reshape(4, 2).sum(1)
                param -= 0.1 * grads[name]
    scope = Scope.of(model, structure=traced(model, Inputs.of((X[0],))))
    config = [{"op_names": ["q", "k", "v"], "sparsity": 0.5, "granularity": "head"}]
    options = {"epochs": 1, "warm_up": 0.99, "cool_down": 0.0, "optimizer": descent(0.1)}
    found = outcome(movement, scope, config, loss, BATCHES, dependency_aware, **options)
    kept = lowest(scores, 2)
    assert torch.equal(found.masks["v.bias"], kept.repeat_interleave(2))
    assert torch.equal(found.masks["out.weight"].flatten(), kept.repeat_interleave(2))
    hard = outcome(movement, scope, config, loss, BATCHES, dependency_aware, epochs=8, warm_up=0.0, cool_down=0.5)
    soft = outcome(movement, scope, config, loss, BATCHES, dependency_aware, epochs=8, mode="soft", penalty=100.0)
    for masks in (hard.masks, soft.masks):
        assert int(masks["q.bias"].reshape(4, 2).all(1).sum()) == 2
        assert torch.equal(masks["q.bias"].reshape(4, 2).all(1), masks["q.bias"].reshape(4, 2).any(1))


@pytest.mark.parametrize("allocation", [per_layer, globally])
@pytest.mark.parametrize("mode", ["hard", "soft"])
@pytest.mark.parametrize("granularity", ["element", "channel"])
def test_counts_of_movement_are_exact(allocation: Any, mode: Any, granularity: Any) -> None:
    found = outcome(
        movement, Model.from_module(mlp()), 0.6, loss, BATCHES, allocation, mode=mode, granularity=granularity
    )
    removed = {name: int((~found.masks[name]).sum()) for name in ("0.weight", "2.weight")}
    sizes = {"0.weight": 48, "2.weight": 16} if granularity == "element" else {"0.weight": 8, "2.weight": 2}
    if allocation is per_layer:
        assert removed == {name: int(0.6 * n + 1e-9) for name, n in sizes.items()}
    else:
        assert sum(removed.values()) == int(0.6 * sum(sizes.values()) + 1e-9)
    assert isinstance(found.masks, Masks)
