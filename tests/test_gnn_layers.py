"""Layers of the graph network: against torch-geometric's, and the symmetries that each must have."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from molecules import three_helices
from scipy.spatial.transform import Rotation
from test_decoders import make_graph
from torch import nn
from torch_geometric.nn import GATConv, GINEConv, SAGEConv

from cryoatom.catalog import GNN_LAYERS, load
from cryoatom.decoders import build_decoder
from cryoatom.decoders.decoder import Decoder
from cryoatom.decoders.layers.egnn import NEAREST, REACH, ordered_pairs
from cryoatom.decoders.layers.layer import GraphLayer, NodeState
from cryoatom.structure.graph import ProteinGraph
from cryoatom.structure.scaffold import Scaffold, alpha_scaffold
from cryoatom.structure.template import Template, center_template, template_from_atoms
from cryoatom.train_config import TrainConfig

FEATURE_LAYERS = [name for name in GNN_LAYERS if name != "egnn"]
POINTS, CHANNELS = 43, 8
GRAPH = make_graph(POINTS, 25)  # the last residue has no bond


def template() -> Template:
    return center_template(template_from_atoms(three_helices(), "helices")[0])


def scaffold(graph: ProteinGraph = GRAPH) -> Scaffold:
    """Three helices, a little distorted: in ideal ones many points are equally near."""
    places = alpha_scaffold(template(), graph)
    noise = np.random.default_rng(0).standard_normal(places.positions.shape)
    return replace(places, positions=places.positions + 0.1 * noise)


def make_layer(name: str, places: Scaffold) -> GraphLayer:
    torch.manual_seed(0)
    layer = load(GNN_LAYERS, name)(places, CHANNELS, 2)[0]
    if name == "egnn":
        nn.init.normal_(layer.get_parameter("step.weight"))
    return layer


def draw_state(batch: int, seed: int = 1) -> NodeState:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(POINTS, batch, CHANNELS, generator=generator)
    return NodeState(features, torch.randn(POINTS, batch, 3, generator=generator))


def both_ways(graph: ProteinGraph) -> torch.Tensor:
    edges = torch.from_numpy(graph.edges)
    return torch.cat([edges, edges.flip(1)]).T.contiguous()


def permuted(places: Scaffold, order: np.ndarray) -> Scaffold:
    """The same points and bonds in another order: the new point k is the old order[k]."""
    place = np.argsort(order)
    graph = replace(places.graph, edges=place[places.graph.edges])
    return replace(places, graph=graph, positions=places.positions[order], residue=places.residue[order])


def bend(decoder: Decoder, seed: int = 0) -> Decoder:
    """Give the last weights, which start at zero, values."""
    torch.manual_seed(seed)
    for name, weight in decoder.named_parameters():
        if "readout" in name or "step" in name:
            nn.init.normal_(weight)
    return decoder


def make_decoder(places: Scaffold, layer: str, **changes: object) -> Decoder:
    given = {"particles": "p.star", "template": "t.cif", "outdir": "run", "gnn_layer": layer, "zdim": 4}
    torch.manual_seed(0)
    return bend(build_decoder(TrainConfig.model_validate(given | changes), places))


@pytest.mark.parametrize("name", ["sage", "gat", "gin"])
def test_a_layer_is_that_of_torch_geometric_image_by_image(name):
    layer, state = make_layer(name, scaffold()), draw_state(3)
    index, kinds = both_ways(GRAPH), torch.from_numpy(np.tile(GRAPH.kinds, 2)).long()
    if name == "sage":
        single, given = SAGEConv(CHANNELS, CHANNELS), (index,)
    elif name == "gat":
        single, given = GATConv(CHANNELS, CHANNELS // 4, heads=4), (index,)
    else:
        inner = nn.Sequential(nn.Linear(CHANNELS, CHANNELS), nn.LayerNorm(CHANNELS), nn.ReLU())
        inner.append(nn.Linear(CHANNELS, CHANNELS))
        single, given = GINEConv(inner, edge_dim=2), (index, torch.eye(2)[kinds])
    single.load_state_dict(layer.get_submodule("convolution").state_dict())
    features = state.features.requires_grad_()
    slow = torch.stack([image + torch.relu(single(image, *given)) for image in features.unbind(1)], dim=1)
    fast = layer(state).features
    torch.testing.assert_close(fast, slow)
    weight = torch.randn_like(fast)
    of_fast, of_slow = (torch.autograd.grad((y * weight).sum(), features) for y in (fast, slow))
    torch.testing.assert_close(of_fast, of_slow)


@pytest.mark.parametrize("name", GNN_LAYERS)
def test_points_have_no_order_and_images_do_not_meet(name):
    state, order = draw_state(3), np.random.default_rng(0).permutation(POINTS)
    after = make_layer(name, scaffold())(state)
    reordered = make_layer(name, permuted(scaffold(), order))(NodeState(state.features[order], state.moves[order]))
    torch.testing.assert_close(reordered.features, after.features[order])
    torch.testing.assert_close(reordered.moves, after.moves[order])
    alone = make_layer(name, scaffold())(NodeState(state.features[:, 1:2], state.moves[:, 1:2]))
    torch.testing.assert_close(alone.features, after.features[:, 1:2])
    torch.testing.assert_close(alone.moves, after.moves[:, 1:2])


@pytest.mark.parametrize("name", FEATURE_LAYERS)
def test_a_layer_reaches_bonded_residues_and_no_others(name):
    state, layer = draw_state(1), make_layer(name, scaffold())
    changed = state.features.clone()
    changed[10] += 1
    moved = (layer(replace(state, features=changed)).features - layer(state).features).abs().amax(dim=(1, 2)) > 0
    bonded = {10} | {int(b if a == 10 else a) for a, b in GRAPH.edges if 10 in (a, b)}
    assert set(torch.nonzero(moved)[:, 0].tolist()) <= bonded
    assert moved[10] and moved.sum() > 1


@pytest.mark.parametrize("name", GNN_LAYERS)
def test_a_graph_may_have_no_bond_at_all(name):
    empty = ProteinGraph(np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.int8), np.zeros(0), POINTS)
    decoder = make_decoder(scaffold(empty), name)
    z = torch.randn(2, 4, requires_grad=True)
    moved = decoder(z)
    assert (moved.abs().amax(dim=(0, 2)) > 0).all()  # each residue still has latents of its own
    moved.sum().backward()
    assert z.grad is not None and z.grad.isfinite().all()


@pytest.mark.parametrize("name", ["gin", "egnn"])
def test_kinds_of_edges_matter(name):
    other = replace(GRAPH, kinds=np.where(np.arange(len(GRAPH.kinds)) == 3, 1 - GRAPH.kinds, GRAPH.kinds))
    state = draw_state(2)
    found, changed = (make_layer(name, scaffold(graph))(state) for graph in (GRAPH, other))
    ends = GRAPH.edges[3]
    differs = (found.features - changed.features).abs().amax(dim=(1, 2)) > 0
    assert differs[ends].any() and not np.delete(differs.numpy(), ends).any()


@pytest.mark.parametrize("name", ["gin", "egnn"])
def test_further_kinds_of_edges_have_weights_of_their_own(name):
    kinds = GRAPH.kinds.copy()
    kinds[5] = 2
    two, three = (make_decoder(scaffold(graph), name) for graph in (GRAPH, replace(GRAPH, kinds=kinds)))
    weights = [sum(p.numel() for p in decoder.parameters()) for decoder in (two, three)]
    assert weights[1] > weights[0]


@pytest.mark.parametrize("name", GNN_LAYERS)
def test_default_sizes_are_comparable(name):
    """About 35k weights for ADK's 214 residues, 8 latents, as in the paper's table of sizes."""
    chain = [three_helices()] * 5
    positions = np.concatenate([part.positions + 40.0 * i for i, part in enumerate(chain)])
    points = positions[:: len(chain[0].names) // POINTS][:214]
    places = Scaffold(template(), make_graph(214, 150), points, np.arange(214))
    decoder = make_decoder(places, name, zdim=8)
    assert 0.97 * 35_219 <= sum(p.numel() for p in decoder.parameters()) <= 1.05 * 35_219


@pytest.mark.parametrize("name", GNN_LAYERS)
def test_features_stay_tame_through_the_default_depth(name):
    places = scaffold()
    torch.manual_seed(0)
    layers, features = load(GNN_LAYERS, name)(places, 16, None), torch.randn(POINTS, 8, 16)
    state = NodeState(features, torch.zeros(POINTS, 8, 3))
    for layer in layers:
        state = layer(state)
    assert 0.5 < state.features.std() < 100 and (state.moves == 0).all()


@pytest.mark.parametrize("mirror", [1, -1])
def test_displacements_turn_with_the_template(mirror):
    """E(3): also where the template is mirrored, and wherever it lies."""
    turn = Rotation.random(rng=np.random.default_rng(3)).as_matrix() * mirror
    places = scaffold()
    turned = replace(places, positions=places.positions @ turn.T + [30.0, -20.0, 10.0])
    z = torch.randn(5, 4, dtype=torch.float64)
    decoder = make_decoder(places, "egnn").double()
    found, expected = make_decoder(turned, "egnn").double()(z), decoder(z) @ torch.from_numpy(turn).T
    assert expected.abs().mean() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_other_layers_do_not_turn_with_the_template():
    places = scaffold()
    turned = replace(places, positions=places.positions[:, [1, 2, 0]])
    z = torch.randn(2, 4)
    assert torch.equal(make_decoder(places, "gcn")(z), make_decoder(turned, "gcn")(z))


def test_a_step_of_the_equivariant_layer_is_bounded():
    layer, state = make_layer("egnn", scaffold()), draw_state(2)
    nn.init.constant_(layer.get_parameter("step.weight"), 1e6)
    moved = (layer(state).moves - state.moves).norm(dim=-1)
    neighbours = np.bincount(ordered_pairs(scaffold(), NEAREST)[0]).max()
    assert 0 < moved.max() <= REACH * neighbours**0.5


def test_points_at_one_place_do_no_harm():
    places = scaffold()
    positions = places.positions.copy()
    positions[7] = positions[8]
    decoder = make_decoder(replace(places, positions=positions), "egnn")
    z = torch.randn(2, 4, requires_grad=True)
    decoder(z).square().sum().backward()
    assert z.grad is not None and z.grad.isfinite().all()


def test_pairs_are_bonds_and_nearest_points_each_once():
    places = scaffold()
    first, second, kinds = ordered_pairs(places, 5)
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs) and not (first == second).any()
    bonds = {tuple(edge): kind for edge, kind in zip(GRAPH.edges.tolist(), GRAPH.kinds.tolist(), strict=True)}
    distances = np.linalg.norm(places.positions[:, None] - places.positions, axis=-1)
    for (i, j), kind in zip(pairs, kinds.tolist(), strict=True):
        assert kind == 1 + bonds.get((min(i, j), max(i, j)), -1)
        assert kind or np.argsort(distances[i]).tolist().index(j) <= 5
    assert {(i, j) for i, j in bonds} <= set(pairs) and {(j, i) for i, j in bonds} <= set(pairs)
    assert np.bincount(first).min() >= 5


def test_heads_share_the_channels():
    with pytest.raises(ValueError, match=r"--dec-dim: --gnn-layer gat has four heads, so a multiple of 4, found 10"):
        make_decoder(scaffold(), "gat", dec_dim=10)
