"""One test for every decoder; then each against the papers' equations and sizes."""

import numpy as np
import pytest
import torch
from molecules import helix
from torch_geometric.nn import GCNConv

from cryoatom.catalog import DECODERS, GNN_LAYERS
from cryoatom.decoders import build_decoder
from cryoatom.decoders.decoder import Decoder
from cryoatom.decoders.layers.gcn import GCNLayer, normalized_adjacency
from cryoatom.decoders.layers.layer import NodeState
from cryoatom.decoders.mlp import MLPDecoder
from cryoatom.structure.graph import ProteinGraph
from cryoatom.structure.scaffold import alpha_scaffold
from cryoatom.structure.template import center_template, template_from_atoms
from cryoatom.train_config import TrainConfig


def make_graph(residues: int, bonds: int, seed: int = 0) -> ProteinGraph:
    """A chain, and hydrogen bonds between residues drawn at random; the last residue has no bond at all."""
    chain = {(i, i + 1) for i in range(residues - 2)}
    generator = np.random.default_rng(seed)
    pairs = {tuple(sorted(generator.choice(residues - 1, 2, replace=False).tolist())) for _ in range(bonds)} - chain
    edges = np.array(sorted(chain | pairs))
    kinds = np.array([0 if tuple(e) in chain else 1 for e in edges.tolist()], dtype=np.int8)
    return ProteinGraph(edges, kinds, np.where(kinds == 1, -1.0, np.nan), residues)


GRAPH = make_graph(13, 9)
VARIANTS = [(name, {}) for name in DECODERS] + [("gnn", {"gnn_layer": layer}) for layer in GNN_LAYERS if layer != "gcn"]


def make_decoder(name: str, graph: ProteinGraph, latent: int, **changes: object) -> Decoder:
    """The decoder of that name with the defaults of `cryoatom train`, around a helix."""
    given = {"particles": "p.star", "template": "t.cif", "outdir": "run"}
    model = {"decoder": name, "zdim": latent, "homogeneous": name == "constant"}
    config = TrainConfig.model_validate(given | model | changes)
    template = center_template(template_from_atoms(helix(graph.residues), "helix")[0])
    return build_decoder(config, alpha_scaffold(template, graph))


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_every_decoder(name, changes):
    torch.manual_seed(0)
    decoder = make_decoder(name, GRAPH, 5, **changes)
    z = torch.randn(4, 5, requires_grad=True)
    untrained = decoder(z)
    assert untrained.shape == (4, 13, 3) and untrained.dtype == torch.float32
    assert (untrained == 0).all()  # it returns the template

    optimizer = torch.optim.SGD(decoder.parameters(), lr=0.1)
    target = torch.randn(4, 13, 3)
    decoder.draw(torch.Generator().manual_seed(0))  # as a training step does: random parameters take part
    (decoder(z) - target).square().mean().backward()
    optimizer.step()  # moves the last layer alone: behind it all gradients are zero
    trained = decoder(z)
    assert trained.abs().max() > 0
    if name == "constant":  # knows no latents
        return
    (of_latents,) = torch.autograd.grad((trained - target).square().mean(), z, retain_graph=True)
    assert (of_latents.abs().sum(dim=1) > 0).all()
    of_weights = torch.autograd.grad((trained - target).square().mean(), list(decoder.parameters()))
    assert all(g.abs().sum() > 0 for g in of_weights)  # nothing is dead

    decoder.draw(None)
    trained = decoder(z)
    torch.testing.assert_close(decoder(z[[2, 0]]), trained[[2, 0]])  # each image on its own
    assert decoder(z[:0]).shape == (0, 13, 3)
    torch.manual_seed(0)
    again = make_decoder(name, GRAPH, 5, **changes)
    assert sorted(again.state_dict()) == sorted(decoder.state_dict())
    again.load_state_dict(decoder.state_dict())
    torch.testing.assert_close(again(z), trained, atol=0, rtol=0)


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_gradcheck(name, changes):
    torch.manual_seed(0)
    decoder = make_decoder(name, GRAPH, 3, **changes).double()
    for weight in decoder.parameters():
        torch.nn.init.normal_(weight)
    assert torch.autograd.gradcheck(decoder, torch.randn(2, 3, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize(("name", "weights"), [("gnn", 35_219), ("mlp", 29_922)])
def test_weights_for_adk_are_those_of_the_paper(name, weights):
    """Supplement, table 1: 35k and 30k for 214 residues and 8 latents."""
    decoder = make_decoder(name, make_graph(214, 150), 8)
    assert sum(p.numel() for p in decoder.parameters()) == weights


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ({}, 29_922),
        # linear maps of 8 x 350, five of 350 x 350, 350 x 642, with their biases
        ({"dec_layers": 5, "dec_dim": 350, "activation": "silu"}, 8 * 350 + 5 * 350**2 + 350 * 642 + 6 * 350 + 642),
        ({"dec_layers": 3, "dec_dim": 256, "residual": True}, 8 * 256 + 3 * 256**2 + 256 * 642 + 4 * 256 + 642),
    ],
)
def test_perceptrons_of_the_papers_for_adk(changes, weights):
    """The GNN paper's; Prins' of seven linear maps, 350 wide; Cryofold's of three layers of 256 with skips."""
    decoder = make_decoder("mlp", make_graph(214, 50), 8, **changes)
    assert sum(p.numel() for p in decoder.parameters()) == weights


@pytest.mark.parametrize(
    "changes", [{}, {"dec_layers": 5, "dec_dim": 350, "activation": "silu"}, {"dec_layers": 3, "residual": True}]
)
def test_with_an_encoder_latents_reach_the_last_layer_of_the_perceptron(changes):
    torch.manual_seed(0)
    decoder = make_decoder("mlp", GRAPH, 8, encoder="cnn", **changes)
    assert isinstance(decoder, MLPDecoder)
    features = decoder.hidden(torch.randn(200, 8))
    assert 0.03 < features.std(dim=0).mean() < 3


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_hidden_layers_of_the_perceptron_may_have_skips(activation):
    torch.manual_seed(0)
    decoder = make_decoder("mlp", GRAPH, 3, dec_layers=2, dec_dim=6, residual=True, activation=activation)
    torch.nn.init.normal_(decoder.readout.weight)
    act = {"relu": torch.relu, "silu": torch.nn.functional.silu}[activation]
    first, *hidden, last = [layer for layer in decoder.modules() if isinstance(layer, torch.nn.Linear)]
    z = torch.randn(4, 3)
    x = act(first(z))
    for layer in hidden:
        x = x + act(layer(x))
    torch.testing.assert_close(decoder(z), last(x).view(4, 13, 3))


def test_adjacency_is_that_of_equation_2():
    neighbours = [{i} for i in range(13)]
    for i, j in GRAPH.edges.tolist():
        neighbours[i].add(j)
        neighbours[j].add(i)
    expected = torch.zeros(13, 13)
    for i in range(13):
        for j in neighbours[i]:
            expected[i, j] = (len(neighbours[i]) * len(neighbours[j])) ** -0.5
    found = normalized_adjacency(torch.from_numpy(GRAPH.edges), 13)
    torch.testing.assert_close(found(torch.eye(13)), expected)
    assert expected[12, 12] == 1  # a residue without bonds keeps its own features


def test_a_layer_is_a_skip_connection_around_kipf_and_welling():
    torch.manual_seed(0)
    edges = torch.from_numpy(GRAPH.edges)
    layer, conv = GCNLayer(normalized_adjacency(edges, 13), 6), GCNConv(6, 6)
    conv.load_state_dict({"lin.weight": layer.linear.weight, "bias": layer.linear.bias})
    x = torch.randn(3, 13, 6, requires_grad=True)
    slow = torch.stack([image + torch.relu(conv(image, torch.cat([edges, edges.flip(1)]).T)) for image in x])
    fast = layer(NodeState(x.transpose(0, 1), torch.zeros(13, 3, 3))).features.transpose(0, 1)
    torch.testing.assert_close(fast, slow)
    weight = torch.randn_like(fast)
    found = torch.autograd.grad((fast * weight).sum(), [x, layer.linear.weight, layer.linear.bias])
    expected = torch.autograd.grad((slow * weight).sum(), [x, conv.lin.weight, conv.bias])
    torch.testing.assert_close(found, expected)


def test_bonds_tell_neighbours_about_each_other():
    """Without edges the residues' features never mix; along bonds 16 layers reach 16 residues far."""
    torch.manual_seed(0)
    chain = make_graph(40, 0)
    decoder = make_decoder("gnn", chain, 2)
    torch.nn.init.normal_(decoder.readout.weight)
    before = decoder(torch.ones(1, 2))
    with torch.no_grad():
        decoder.embedding.weight[20] += 1.0
    changed = (decoder(torch.ones(1, 2)) - before).abs().amax(dim=(0, 2)) > 0
    assert changed[20]
    reached = torch.nonzero(changed)[:, 0]
    assert len(reached) > 10 and (reached - 20).abs().max() <= 16


@pytest.mark.parametrize(("name", "changes"), [variant for variant in VARIANTS if variant[0] != "constant"])
def test_hidden_layers_in_half_precision(name, changes):
    torch.manual_seed(0)
    exact = make_decoder(name, GRAPH, 5, **changes)
    for parameter in exact.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    half = make_decoder(name, GRAPH, 5, **changes, amp=True)
    half.load_state_dict(exact.state_dict())
    z = torch.randn(4, 5, requires_grad=True)
    near, far = half(z), exact(z)
    assert near.dtype == torch.float32
    assert float((near - far).detach().abs().max()) < 0.03 * float(far.detach().std())
    is_network = name in ("gnn", "mlp", "rigid") and changes.get("gnn_layer") != "egnn"
    assert torch.equal(near, far) is not is_network  # where coordinates themselves are made, all stays as it is
    found, expected = (
        torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(x.square().mean(), [z, *some], allow_unused=True)
                if g is not None
            ]
        )
        for x, some in ((near, half.parameters()), (far, exact.parameters()))
    )
    assert found.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.99
