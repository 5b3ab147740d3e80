"""The builder: order, scope, what is written back, what parts need, and what a config may name."""

import json
import sys
from functools import partial

import pytest
import torch
from torch import nn

from core.catalogue import fits
from core.config import compose
from core.config.allowed import checked_targets, load_target
from core.config.build import build, build_method
from core.config.compose import assemble
from core.config.files import choices
from core.errors import IncompatibleError, UserError
from tests.core.config_fixture import TREE, install

TOY = "lacuna_toy.parts."
SPECIAL = {("graph", "graphmae_chem"): ["modality.features=2"]}  # atoms, which the generated world has not


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    install(monkeypatch)


@pytest.fixture
def built() -> list[str]:
    """The toy parts built so far in this test, by name."""
    from lacuna_toy import parts

    parts.BUILT.clear()
    return parts.BUILT


def node(name: str, **settings) -> dict:
    return {"_target_": TOY + name, **settings}


def message(tree: dict, key: str = "method", **scope) -> str:
    with pytest.raises(UserError) as caught:
        build(tree, scope, key)
    return str(caught.value)


# Building


def test_method_is_built_in_constructor_order_and_completed(built):
    config = compose([], TREE)
    method = build_method(config)
    assert built == ["Cutter", "Trunk", "Encoder", "Trunk"]
    readout, embed = method.readouts["main"], config["method"]["encoder"]["embed"]
    assert embed == {"_target_": TOY + "Embed", "values": 18, "dim": 8}
    assert (readout.decoder.width, readout.decoder.dim, readout.decoder.trunk.dim) == (8, 16, 16)
    target = config["method"]["readouts"]["main"]["objectives"]["pixels"]["target"]
    assert target == {"_target_": TOY + "Target", "per": "patch", "values": 18, "grid": [4, 2]}
    assert readout.objectives["pixels"].target.grid == (4, 2)


def test_parts_that_are_built_first_give_facts_to_those_before_them():
    tree = node("Guided", embed=node("Embed", dim=4), guides={"one": node("Guide", size=5)})
    guided = build(tree)
    assert guided.embed.values == 5 and tree["embed"]["values"] == 5
    assert "no earlier part provides it" in message(node("Guided", embed=node("Embed", dim=4)))


def test_completed_nodes_stand_alone():
    config = compose([], TREE)
    build_method(config)
    saved = json.loads(json.dumps(config["method"]["encoder"]))
    assert build(saved).embed.values == 18
    assert saved == config["method"]["encoder"]


def test_what_is_given_goes_to_later_parts_of_the_same_node_only():
    readouts = {name: {"decoder": node("Decoder", dim=dim), "objectives": {}} for name, dim in (("a", 4), ("b", 5))}
    tree = node("Method", tokenizer=node("Cutter", patch=[1], size=[1]), masker=node("RandomMasker", ratio=0.5))
    tree |= {"encoder": node("Encoder", trunk=node("Trunk", dim=3, depth=1), embed=node("Embed")), "readouts": readouts}
    made = build(tree)
    assert [made.readouts[name].decoder.width for name in "ab"] == [3, 3]


def test_nearest_plain_value_wins_and_null_gives_nothing():
    assert build(node("Decoder", dim=7, trunk=node("Trunk", depth=1)), {"width": 1, "dim": 2}).trunk.dim == 7
    assert "method.width must be set" in message(node("Decoder", dim=7), width_=1)
    assert "method.width must be set" in message({**node("Decoder", dim=7), "width": None})


def test_lists_and_mappings_of_nodes():
    encoder = node("Encoder", trunk=node("Trunk", dim=4, depth=1), embed=node("Embed"))
    encoder["extra"] = [node("Embed", scale=2.0), node("Embed", dim=9)]
    made = build(encoder, {"values": 5})
    assert [(part.scale, part.dim) for part in made.extra] == [(2.0, 4), (1.0, 9)]
    assert build({"a": node("Clip"), "b": [node("Clip", norm=2)], "c": 1})["b"][0].norm == 2.0


def test_annotation_says_what_a_mapping_without_target_builds():
    made = build(node("Decoder", dim=6, width=2, trunk={"depth": 3}))
    assert (type(made.trunk).__name__, made.trunk.dim, made.trunk.depth) == ("Trunk", 6, 3)
    assert "no parameter 'dept'" in message(node("Decoder", dim=6, width=2, trunk={"dept": 3}))


def test_partial_is_handed_over_and_takes_nothing_from_the_scope():
    made = build(node("Trunk", depth=2, _partial_=True), {"dim": 4})
    assert isinstance(made, partial)
    assert made.keywords == {"depth": 2}
    loss = build(node("mse", _partial_=True))
    assert loss(3, 1) == 4


def test_functions_that_make_parts_are_called_and_others_are_not():
    assert build(node("make_clip", norm=3)).norm == 3.0
    assert "_partial_: true" in message(node("mse", prediction=1, values=2))


def test_the_wanted_kind_can_be_said():
    assert "method=<Clip>: expected a Linear" in message_of_kind(node("Clip"), nn.Linear)
    assert "method=<Clip>: expected a Linear" in message_of_kind(node("make_clip", norm=1), nn.Linear)


def message_of_kind(tree: dict, kind: type) -> str:
    with pytest.raises(UserError) as caught:
        build(tree, key="method", kind=kind)
    return str(caught.value)


def test_null_is_said_where_it_may_be_and_left_out_where_not():
    assert build(node("Clip", norm=None)).norm is None
    assert build(node("Embed", values=1, dim=1, scale=None)).scale == 1.0
    assert build(node("Readout", objectives={"a": None})).objectives == {}


def test_layers_of_torch_and_timm():
    embed = build(node("Embed", values=1, dim=1, norm={"_target_": "torch.nn.LayerNorm", "normalized_shape": 4}))
    assert isinstance(embed.norm, nn.LayerNorm)
    assert build({"_target_": "timm.layers.DropPath", "drop_prob": 0.5}).drop_prob == 0.5
    assert build({"_target_": "torch.nn.functional.l1_loss", "_partial_": True}).func is nn.functional.l1_loss
    assert "no parameter 'in_feature'. Did you mean in_features" in message(
        {"_target_": "torch.nn.Linear", "in_feature": 1}
    )


# Errors


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (node("RandomMasker", ration=0.5), ["method.ration", "RandomMasker", "Did you mean ratio"]),
        (node("RandomMasker", ratio="x"), ["method.ratio=x", "number (float)"]),
        (node("RandomMasker"), ["method.ratio must be set", "RandomMasker needs it"]),
        (node("BlockMasker", block=[1]), ["method.block=[1]", "a list of 2"]),
        (node("BlockMasker", block=[1, 2.5]), ["method.block=[1,2.5]", "whole number"]),
        (node("Trunk", dim=4, depth=1, bias="fulll"), ["method.bias=fulll", "Did you mean full"]),
        (node("Trunk", dim=4, depth=1, heads=3), ["method: width 4 is not divisible by 3 heads"]),
        (node("Trunk", dim=4, depth=1, heads=0), ["method: "]),
        (node("Trunk", dim=-4, depth=1), ["method: ", "negative"]),
        (node("Bare", x=1), ["method.x", "Bare has no parameter 'x'"]),
        (node("Layer", x=1), ["method.x", "Layer has no parameter 'x'"]),
        (node("Decoder", dim=4, width=1, trunk=node("Clip")), ["method.trunk=<Clip>", "a Trunk"]),
        (node("Decoder", dim=4, width=1, trunk=[1]), ["method.trunk=[1]", "a Trunk"]),
        (node("Method", masker={"ratio": 1.0}), ["method.masker={ratio: …}", "a Masker"]),
        (node("Objective", loss=5), ["method.loss=5"]),
        ({"a": {"_target_": 5}}, ["method.a._target_", "5"]),
        (node("RandomMaskr"), ["lacuna_toy.parts has no RandomMaskr", "Did you mean RandomMasker"]),
        ({"_target_": "lacuna_toy.prts.Clip"}, ["no module lacuna_toy.prts", "Did you mean parts"]),
        ({"_target_": "core.config.build.build_method.x"}, ["core.config.build.build_method"]),
    ],
)
def test_errors_name_the_key_and_what_is_right(tree, words):
    told = message(tree)
    assert all(word in told for word in words), told


def test_values_from_the_scope_are_held_against_annotations_too():
    assert "method.dim=wide: expected a whole number" in message(node("Trunk", depth=1), dim="wide")


def test_what_cannot_be_saved_cannot_be_given():
    tree = node("Wanting", first=node("Generous", thing={"_target_": "torch.nn.Identity"}))
    with pytest.raises(TypeError, match="plain data"):
        build(tree)


def test_a_package_that_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needy").mkdir()
    (tmp_path / "needy" / "__init__.py").write_text("import not_there\n")
    (tmp_path / "needy-1.dist-info").mkdir()
    (tmp_path / "needy-1.dist-info" / "METADATA").write_text("Name: needy\n")
    (tmp_path / "needy-1.dist-info" / "entry_points.txt").write_text("[lacuna.plugins]\nneedy = needy\n")
    assert "needs the package not_there" in message({"_target_": "needy.Part"})


# What parts need


def test_needs_are_held_against_what_was_given():
    told = message(node("TubeMasker", ratio=0.5), "method.masker", axes=2)
    assert told == "method.masker (TubeMasker) needs tokens with axes=3; these have axes=2."
    assert "these have no axes" in message(node("TubeMasker", ratio=0.5))
    assert build(node("TubeMasker", ratio=0.5), {"axes": 3}).ratio == 0.5


def test_needs_may_depend_on_settings():
    scope = {"values": 1, "grid": [1], "levels": 3}
    assert "needs tokens with levels=2" in message(node("PyramidTarget"), **scope)
    assert build(node("PyramidTarget", levels=3), scope).levels == 3


def test_method_that_cannot_take_a_modality_is_refused_with_what_fits_before_anything_is_built(built):
    with pytest.raises(IncompatibleError) as caught:
        compose(["modality=toy_image", "method=toy_tube"], TREE)
    told = str(caught.value)
    assert "method=toy_tube cannot take modality=toy_image." in told
    assert "takes modality=toy_video;" in told
    assert "toy_block" in told.split("goes with")[1]
    assert "toy_tube" not in told.split("goes with")[1]
    assert built == []


def test_a_method_whose_parts_are_replaced_may_take_more_than_its_file_lists():
    pair = ["modality=toy_image", "method=toy_tube"]
    with pytest.raises(IncompatibleError, match=r"method\.masker \(TubeMasker\) needs tokens with axes=3"):
        build_method(compose([*pair, "method.masker.ratio=0.5"], TREE))
    replaced = compose([*pair, "method.masker={_target_: lacuna_toy.parts.RandomMasker, ratio: 0.5}"], TREE)
    assert type(build_method(replaced).masker).__name__ == "RandomMasker"


def test_a_pair_that_fits_is_not_blamed_for_a_setting():
    config = compose(["method.masker.ratio=null"], TREE)
    with pytest.raises(IncompatibleError, match=r"method\.masker\.ratio must be set"):
        build_method(config)


# What a config may name


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "functools.partial",
        "torch.load",
        "torch.hub.load",
        "torch.nn",
        "torch.utils.cpp_extension.load",
        "torchvision.io.write_file",
        "timm.create_model",
        "timm.utils.get_state_dict",
        "corelike.thing.X",
        "tests.core.test_build.node",
        "lacuna_toy_2.X",
        "core",
        "core..x",
        ".core.x",
        "core.config.build.",
        "core/build.x",
        "core.__main__.x",
        "core.config.build.__loader__",
        "core.config.build.build.__globals__",
        "",
        None,
        7,
    ],
)
def test_names_outside_the_allowlist_are_refused_before_any_import(name):
    before = set(sys.modules)
    for tree in ({"_target_": name}, {"a": [{"b": {"_target_": name}}]}):
        with pytest.raises(UserError, match=r"config may|dotted name"):
            checked_targets(tree)
        with pytest.raises(UserError):
            build(tree)
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "name",
    [
        "core.config.build.inspect",
        "core.config.build.partial",
        "core.config.allowed.import_module",
        "core.config.allowed.sys",
        "lacuna_toy.parts.system",
        "lacuna_toy.parts.BUILT",
        "lacuna_toy.parts.write",
        "core.cli.main",
        "core.config.dump",
        "torch.nn.functional.l1_loss",
        "torch.nn.functional.torch",
        "torch.nn.functional.boolean_dispatch.x",
        "torch.nn.modules.module.functools",
        "torch.nn.modules.module.Any",
        "torch.nn.utils.clip_grad_norm_",
        "timm.models.create_model",
        "timm.models.load_checkpoint",
        "timm.models.vision_transformer.checkpoint_seq",
        "timm.layers.helpers.collections",
    ],
)
def test_what_allowed_modules_happen_to_hold_is_refused(name):
    with pytest.raises(UserError):
        build({"_target_": name})


def test_a_config_never_gets_a_module_of_its_choice_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match=r"evil\.Part"):
        build({"first": node("Clip"), "second": {"_target_": "evil.Part"}})
    assert not (tmp_path / "ran").exists()


def test_nothing_is_built_before_the_whole_tree_is_judged(built):
    wrong_kind = node("Decoder", width=1, dim=1, trunk=node("Encoder"))
    for bad in ({"_target_": "os.system"}, node("Clip", nrom=1), node("Clip", norm="x"), wrong_kind):
        message({"first": node("Cutter", patch=[1], size=[1]), "second": {"third": [bad]}})
    assert built == []


def test_load_target_takes_objects_defined_in_allowed_packages():
    assert load_target("core.errors.UserError") is UserError
    assert load_target(TOY + "mse")(2, 1) == 1
    with pytest.raises(UserError, match=r"^core\.cli\.sys is not defined in a package"):
        load_target("core.cli.sys")


# The real tree


@pytest.mark.parametrize("modality", sorted(choices("modality")))
def test_methods_list_the_modalities_that_they_build_for(modality):
    takes, listed = [], []
    for method in sorted(choices("method")):
        if method.startswith("toy") or modality.startswith("toy"):
            continue
        overrides = [f"modality={modality}", f"method={method}", "size=nano", *SPECIAL.get((modality, method), [])]
        listed += [method] if fits(modality, method) else []
        try:
            config = assemble(overrides)
            assert config["method"]["name"] == method
            with torch.device("meta"):
                build_method(config)
        except IncompatibleError:
            continue
        takes.append(method)
    assert takes == listed


def test_default_config_builds_and_gives_its_names():
    config = compose([])
    assert isinstance(build_method(config), nn.Module)
    again = build({"encoder": config["method"]["encoder"], "tokenizer": config["method"]["tokenizer"]})
    assert isinstance(again["encoder"], nn.Module)


@pytest.mark.parametrize("size", ["nano", "base", "giant"])
def test_sizes_build_on_the_meta_device(size):
    config = compose([f"size={size}", "modality=image"])
    with torch.device("meta"):
        method = build_method(config)
    assert all(p.is_meta for p in method.parameters())


def test_a_class_without_target_is_told_how_to_write_it():
    told = message(node("Wanting", first="torch.nn.Identity"))
    assert "method.first=torch.nn.Identity" in told and "method.first={_target_: torch.nn.Identity}" in told
