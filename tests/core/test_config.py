"""Composition: which files apply, how they are laid over each other, and what users are told when they err."""

import pytest
import yaml

from core.annotations import accepts, convert
from core.catalogue import describe_choices, official_names
from core.config import compose, dump, load, options
from core.config import files as choices
from core.errors import IncompatibleError, UserError, suggestion
from core.renames import RENAMES
from core.settings import parse
from core.trees import is_reference, merge, resolve
from tests.core.config_fixture import TREE, install


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    install(monkeypatch)


def composed(*said: str) -> dict:
    return compose(said, TREE)


def message(*said: str) -> str:
    with pytest.raises(UserError) as caught:
        composed(*said)
    return str(caught.value)


# Which files apply


def test_modality_brings_method_and_data():
    config = composed("modality=toy_video")
    assert config["method"]["name"] == "toy_tube"
    assert config["data"] == {"count": 100, "name": "toy_world"}
    assert config["method"]["tokenizer"]["patch"] == [2, 4, 4]


def test_command_line_wins_over_modality_and_experiment():
    config = composed("modality=toy_video", "method=toy_mae", "data=toy_folder", "data.root=x")
    assert (config["method"]["name"], config["data"]["root"]) == ("toy_mae", "x")
    config = composed("experiment=toy_paper", "size=base", "steps=7")
    assert (config["modality"]["name"], config["method"]["name"], config["size"]["dim"]) == (
        "toy_video",
        "toy_block",
        64,
    )
    assert (config["steps"], config["method"]["masker"]["count"], config["experiment"]) == (7, 9, "toy_paper")


def test_an_experiment_can_be_switched_off_again():
    assert composed("experiment=null")["experiment"] is None


def test_groups_are_named_after_the_chosen_file():
    config = composed("method=toy_block", "size=small")  # toy_block.yaml inherits from toy_mae.yaml
    assert {group: config[group]["name"] for group in ("method", "size", "optim", "modality")} == {
        "method": "toy_block",
        "size": "small",
        "optim": "toy",
        "modality": "toy_image",
    }


def test_result_is_plain_and_without_references():
    text = yaml.safe_dump(composed("modality=toy_video", "method=toy_block"))
    assert "${" not in text
    assert "python" not in text


def test_epochs_on_the_command_line_are_not_beaten_by_steps_from_a_file():
    assert composed("experiment=toy_paper", "epochs=3")["steps"] is None
    assert composed("experiment=toy_paper", "epochs=3", "steps=2")["steps"] == 2


def test_a_typed_rate_per_256_samples_is_not_beaten_by_a_rate_from_a_file():
    world = compose(["modality=image", "data=world"])
    assert world["optim"]["lr"] is not None
    optim = compose(["modality=image", "data=world", "optim.base_lr=1e-3"])["optim"]
    assert (optim["base_lr"], optim["lr"]) == (1e-3, None)
    both = compose(["modality=image", "data=world", "optim.base_lr=1e-3", "optim.lr=2e-3"])["optim"]
    assert both["lr"] == 2e-3


# Laying


def test_another_target_replaces_the_same_target_extends():
    base = {"a": {"_target_": "x", "p": 1, "q": {"r": 1}}}
    assert merge(base, {"a": {"_target_": "y"}}) == {"a": {"_target_": "y"}}
    assert merge(base, {"a": {"_target_": "x", "q": {"s": 2}}}) == {
        "a": {"_target_": "x", "p": 1, "q": {"r": 1, "s": 2}}
    }
    assert base == {"a": {"_target_": "x", "p": 1, "q": {"r": 1}}}
    assert composed("method=toy_block")["method"]["masker"] == {
        "_target_": "lacuna_toy.parts.BlockMasker",
        "block": [2, 2],
    }


def test_null_takes_a_part_out_of_its_mapping_and_stays_with_a_parameter():
    base = {"objectives": {"a": {"_target_": "x", "p": 1}, "b": "${c}", "n": 1}}
    assert merge(base, {"objectives": {"a": None, "b": None, "n": None}}) == {"objectives": {"n": None}}
    assert merge(base, {"objectives": {"a": {"p": None}}})["objectives"]["a"] == {"_target_": "x", "p": None}
    assert (
        "pixels"
        not in composed("method.readouts.main.objectives.pixels=null")["method"]["readouts"]["main"]["objectives"]
    )


def test_mapping_over_a_reference_extends_its_final_value():
    config = composed("method=toy_block", "modality.patch=[4,4]")  # toy_block lays {weight, target} over it
    pixels = config["method"]["readouts"]["main"]["objectives"]["pixels"]
    assert pixels["weight"] == 0.5
    assert pixels["target"] == {"_target_": "lacuna_toy.parts.Target", "per": "none"}
    assert config["modality"]["content"]["target"]["per"] == "patch"
    config = composed("method.tokenizer.channels=5", "modality.patch=[4,4]")
    assert (config["method"]["tokenizer"]["channels"], config["method"]["tokenizer"]["patch"]) == (5, [4, 4])


def test_layers_over_references_add_up_and_are_seen_through_other_references():
    tree = {"m": {"_target_": "x", "a": 1, "deep": {"b": 1}}, "n": "${m}", "o": "${n.deep.b}", "p": "${n.deep}", "d": 3}
    tree = merge(tree, {"n": {"deep": {"c": "${d}"}}})
    tree = merge(tree, {"n": {"deep": {"b": 2}}, "p": {"z": 0}})
    assert is_reference(tree["n"])
    assert resolve(tree) == {
        "m": {"_target_": "x", "a": 1, "deep": {"b": 1}},
        "n": {"_target_": "x", "a": 1, "deep": {"b": 2, "c": 3}},
        "o": 2,
        "p": {"b": 2, "c": 3, "z": 0},
        "d": 3,
    }
    other = merge({**tree, "o": None, "p": None}, {"n": {"_target_": "y"}})
    assert resolve(other)["n"] == {"_target_": "y"}


def test_references_into_lists_and_inside_text():
    tree = {"s": [4, 5], "a": "${s.1}", "b": "x${s.0}y", "c": ["${a}", "${s}"]}
    assert resolve(tree) == {"s": [4, 5], "a": 5, "b": "x4y", "c": [5, [4, 5]]}


@pytest.mark.parametrize(("size", "dim"), [("nano", 8), ("small", 32), ("base", 48)])
def test_sized(size, dim):
    assert composed("method=toy_block", f"size={size}")["method"]["readouts"]["main"]["decoder"]["dim"] == dim


@pytest.mark.parametrize(("channels", "expected"), [(3, [1, 2, 3]), (1, [9]), (4, [9, 9, 9, 9]), ("x", [1, 2, 3])])
def test_values_per_channel(channels, expected):
    tree = {"channels": channels, "mean": "${per_channel:${channels},[1,2,3],9}"}
    assert resolve(tree)["mean"] == expected
    assert resolve(merge(tree, {"mean": [7]}))["mean"] == [7]


def test_select_takes_what_is_there_else_the_default():
    tree = {"data": {"n": {"a": 1}}, "x": "${oc.select:data.n,3}", "y": "${oc.select:data.m,[1,${data.n.a}]}"}
    assert resolve(tree)["x"] == {"a": 1}
    assert resolve(tree)["y"] == [1, 1]
    over = merge(tree, {"x": {"b": 2}})  # a mapping over what a resolver says
    assert resolve(over)["x"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"a": "${b}", "b": "${a}"}, "refers to itself"),
        ({"a": {"b": "${a}"}}, "refers to itself"),
        ({"a": "${.b}", "b": 1}, "relative"),
        ({"a": "${env:HOME}"}, "'env'"),
        ({"a": "${oc.env:HOME}"}, "'oc.env'"),
        ({"a": "${oc.${b}:HOME}", "b": "env"}, "'oc.'"),
        ({"a": "${o${oc.select:b,c}.env:HOME}"}, "'o'"),
        ({"a": "${sized:{small:1}}", "size": {"name": "nano"}}, "size=nano"),
        ({"a": "${sized:{small:1}"}, "cannot be evaluated"),
    ],
)
def test_bad_references_are_user_errors(tree, said):
    with pytest.raises(UserError, match=said):
        resolve(tree)


def test_reference_that_leads_nowhere_names_both_ends():
    tree = {"modality": {"frame": 1}, "method": {"n": "${modality.frames}"}}
    with pytest.raises(IncompatibleError, match=r"method\.n .*modality\.frames.* Did you mean frame\?"):
        resolve(tree)


# What users are told


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("data.root=x", ["there is no data.root.", "data=folder", "it."]),
        ("config=", ["config= needs a file", "config=<run>/config.yaml"]),
        ("modality=toy_imgae", ["modality=toy_imgae", "toy_image", "toy_video"]),
        ("method=toy_meo", ["method=toy_meo", "toy_mae"]),
        ("experiment=toy_papr", ["experiment=toy_papr", "toy_paper"]),
        ("size=null", ["size=null", "nano"]),
        ("stepz=1", ["stepz=1", "Did you mean steps"]),
        ("methd=toy_mae", ["methd=toy_mae", "method"]),
        ("ratio=0.5", ["ratio=0.5", "method.masker.ratio"]),
        ("method.masker.ration=0.5", ["method.masker.ration=0.5", "RandomMasker", "ratio"]),
        ("method.maskr.ratio=0.5", ["method.maskr.ratio=0.5", "masker"]),
        ("engine.wrokers=1", ["engine.wrokers=1", "workers"]),
        ("engine={wrokers: 1}", ["engine.wrokers", "workers"]),
        ("optim.beta=[0.9,0.9]", ["optim.beta=", "betas"]),
        ("method.readouts.main.objectives.pixel.weight=1", ["pixels"]),
        ("method.masker.ratio=abc", ["method.masker.ratio=abc", "number (float)"]),
        ("method.masker.ratio=true", ["method.masker.ratio=true", "number (float)"]),
        ("method.masker.ratio=[0.5]", ["method.masker.ratio=[0.5]", "number (float)"]),
        ("method.masker={ratio: x}", ["method.masker.ratio=x", "number (float)"]),
        ("method.masker=5", ["method.masker=5", "Masker"]),
        ("method.encoder.trunk.depth=1.5", ["method.encoder.trunk.depth=1.5", "whole number (int)"]),
        ("method.encoder.trunk.bias=ful", ["method.encoder.trunk.bias=ful", "full, qv, none", "Did you mean full"]),
        ("method.tokenizer.patch=16", ["method.tokenizer.patch=16", "a list"]),
        ("modality.tokenizer.patch=[a]", ["modality.tokenizer.patch=[a]", "whole number"]),
        ("optim.betas=[1]", ["optim.betas=[1]", "a list of 2"]),
        ("modality.size=x", ["size=x", "a list"]),
        ("modality.size.0=8", ["modality.size=["]),
        ("engine.workers=two", ["engine.workers=two", "whole number"]),
        ("engine.workers=null", ["engine.workers=null", "whole number"]),
        ("steps=abc", ["steps=abc", "whole number"]),
        ("steps=007", ["steps=007", "whole number"]),
        ("batch_size=1.5", ["batch_size=1.5", "whole number"]),
        ("batch_size=null", ["batch_size=null", "whole number"]),
        ("precision=fp17", ["precision=fp17", "auto", "bf16"]),
        ("compile=1", ["compile=1", "true or false"]),
        ("seed.x=1", ["seed.x=1", "single value"]),
        ("data=toy_folder", ["data.root=<value>"]),
        ("steps", ["'steps'", "steps=<value>"]),
        ("+steps=1", ["'+steps=1'", "Write steps=1"]),
        ("--steps=1", ["Write steps=1"]),
        ("modality.size=[8", ["[8"]),
        ("config=nowhere.yaml", ["nowhere.yaml"]),
        ("method.masker._target_=os.system", ["method.masker", "os.system"]),
        ("method.masker={_target_: lacuna_toy.parts.RandomMaskr}", ["method.masker", "RandomMasker"]),
    ],
)
def test_errors_name_key_value_and_what_is_right(said, words):
    told = message(said)
    assert all(word in told for word in words), told
    assert "Error" not in told
    assert "\n" not in told
    assert "use +" not in told
    assert "ydra" not in told


def test_broken_yaml_names_the_file(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "broken.yaml").write_text("a: [1\nb: 2\n")
    with pytest.raises(UserError, match=r"broken\.yaml"):
        compose(["method=broken"], [tmp_path, *TREE])


def test_file_that_asks_for_an_unknown_file(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "orphan.yaml").write_text("extends: toy_mea\n")
    with pytest.raises(UserError, match="toy_mea") as caught:
        compose(["method=orphan"], [tmp_path, *TREE])
    assert "search path" not in str(caught.value)


def test_the_first_syntax_of_files_is_refused_with_its_successor(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "old.yaml").write_text("defaults: [toy_mae, _self_]\n")
    with pytest.raises(UserError, match=r"old\.yaml: defaults: .* extends: .* choose: "):
        compose(["method=old"], [tmp_path, *TREE])


@pytest.mark.parametrize(
    ("directive", "kind"), [("extends: [toy_mae]", "str"), ("choose: toy", "dict"), ("modalities: toy_image", "list")]
)
def test_a_directive_of_the_wrong_kind_names_file_and_kind(tmp_path, directive, kind):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "odd.yaml").write_text(directive)
    with pytest.raises(UserError, match=rf"odd\.yaml: \w+: must be a {kind}"):
        compose(["method=odd"], [tmp_path, *TREE])


def test_a_file_that_extends_itself(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "loop.yaml").write_text("extends: loop")
    with pytest.raises(UserError, match="loop"):
        compose(["method=loop"], [tmp_path, *TREE])


def test_a_modality_without_a_method_asks_for_one(tmp_path):
    (tmp_path / "modality").mkdir()
    (tmp_path / "modality" / "bare.yaml").write_text("size: [8]")
    with pytest.raises(UserError, match="modality=bare chooses no method; give method=<name>"):
        compose(["modality=bare"], [tmp_path, *TREE])


def test_data_that_the_modality_does_not_fit_are_blamed_themselves(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "far.yaml").write_text("source: ${modality.world}\n")
    with pytest.raises(IncompatibleError) as caught:
        compose(["data=far"], [tmp_path, *TREE])
    assert str(caught.value).startswith("data=far does not fit modality=toy_image: data.source takes its value from")
    assert str(caught.value).endswith("modality=toy_image takes data=toy_world.")


def test_a_modality_may_list_methods_that_do_not_list_it(tmp_path):
    (tmp_path / "modality").mkdir()
    listing = "extends: toy_image\nchoose: {method: toy_tube}\n"
    (tmp_path / "modality" / "toy_row.yaml").write_text(listing)
    with pytest.raises(IncompatibleError, match="method=toy_tube cannot take modality=toy_row"):
        compose(["modality=toy_row"], [tmp_path, *TREE])
    (tmp_path / "modality" / "toy_column.yaml").write_text(f"{listing}methods: [toy_tube]\n")
    assert compose(["modality=toy_column"], [tmp_path, *TREE])["method"]["name"] == "toy_tube"


def test_a_reference_that_the_modality_lacks_lists_what_fits():
    told = message("modality=toy_image", "method=toy_frames")
    assert "method=toy_frames cannot take modality=toy_image" in told
    assert "modality.frames" in told
    assert "takes modality=toy_video;" in told
    assert "toy_mae" in told.split("goes with")[1]
    assert composed("modality=toy_image", "method=toy_frames", "method.masker.block=[1,1]")


# Values


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("1", 1),
        ("-3", -3),
        ("1e-3", 0.001),
        ("5.", 5.0),
        ("007", "007"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("yes", "yes"),
        ("none", "none"),
        ("null", None),
        ("", ""),
        ("/a b/(c),d=e:f#g*", "/a b/(c),d=e:f#g*"),
        ("[1, 2.5,x]", [1, 2.5, "x"]),
        ("'12'", "12"),
        ("{a: [1], b: {c: null}}", {"a": [1], "b": {"c": None}}),
    ],
)
def test_values_as_typed(said, value):
    parsed = parse(said)
    assert parsed == value
    assert type(parsed) is type(value)


def test_annotations_decide_what_a_value_is():
    config = composed("steps=1e3", "run_dir=2024", "optim.lr=1", "method.encoder.embed.scale=1e-3")
    assert (config["steps"], config["run_dir"], config["optim"]["lr"]) == (1000, "2024", 1.0)
    assert isinstance(config["steps"], int)
    assert config["method"]["encoder"]["embed"]["scale"] == 0.001
    assert composed("run_dir=runs/a=b,(c) [1]")["run_dir"] == "runs/a=b,(c) [1]"
    assert composed("init.from=null")["init"] == {"from": None, "part": None}


@pytest.mark.parametrize(
    ("value", "hint", "made"),
    [
        ("1e-3", float, 0.001),
        (3.0, int, 3),
        (3, float | None, 3.0),
        (5, float | int, 5),
        ([1, 2], tuple[int, ...], (1, 2)),
        ([[1, 2]], list[tuple[int, int]], [(1, 2)]),
        ({"a": [1]}, dict[str, tuple[int]], {"a": (1,)}),
    ],
)
def test_convert(value, hint, made):
    converted = convert(value, hint)
    assert converted == made
    assert type(converted) is type(made)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (True, int),
        (1, bool),
        ("12", int),
        (float("nan"), int),
        (5, str),
        ("ab", list[str]),
        ([1], tuple[int, int]),
        (1, dict),
    ],
)
def test_does_not_convert(value, hint):
    assert not accepts(value, hint)


def test_options_of_a_command_are_split_off():
    hints = {"run": str, "seed": int, "sources": list[str]}
    own, others = options(["run=2024", "data.root=x", "seed=3", "sources=[image,video]"], hints)
    assert own == {"run": "2024", "seed": 3, "sources": ["image", "video"]}
    assert others == ["data.root=x"]
    with pytest.raises(UserError, match="Did you mean run"):
        options(["rnu=a"], hints, strict=True)
    with pytest.raises(UserError, match="seed=x"):
        options(["seed=x"], hints)


# Saved configs


def test_saved_config_repeats_the_run(tmp_path):
    config = composed("experiment=toy_paper", "run_dir=a", "method.encoder.embed.scale=1e-5", "init.from='1e3'")
    dump(config, tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml") == config
    again = composed(f"config={tmp_path}/config.yaml")
    assert again == {**config, "run_dir": None}


def test_saved_config_takes_settings_and_other_data(tmp_path):
    dump(composed("steps=5"), tmp_path / "c.yaml")
    saved = f"config={tmp_path}/c.yaml"
    again = composed(saved, "method.masker.ratio=0.1", "epochs=2", "run_dir=b", "data=toy_folder", "data.root=x")
    assert (again["method"]["masker"]["ratio"], again["steps"], again["run_dir"]) == (0.1, None, "b")
    assert again["data"] == {
        "_target_": "lacuna_toy.parts.Files",
        "root": "x",
        "extensions": ["png"],
        "name": "toy_folder",
    }
    assert composed(saved, "optim=toy_fast")["optim"]["base_lr"] == 0.5
    assert "method=toy_tube cannot be given with config=" in message(saved, "method=toy_tube")
    assert "there is no data.root" in message(saved, "data.root=x")


@pytest.mark.parametrize("text", ["[1]", "a: 1", "modality: {name: x}\nmethod: 3", "a: [", "\x00"])
def test_what_is_no_saved_config(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    assert "c.yaml" in message(f"config={tmp_path}/c.yaml")


def test_saved_config_from_a_stranger_is_held_against_the_allowlist(tmp_path):
    config = composed()
    config["engine"] = {"_target_": "subprocess.run", "args": ["true"]}
    dump(config, tmp_path / "c.yaml")
    assert "subprocess.run" in message(f"config={tmp_path}/c.yaml")


def test_saved_config_of_an_older_format(tmp_path):
    config = composed()
    dump({key: value for key, value in config.items() if key != "init"}, tmp_path / "c.yaml")
    told = message(f"config={tmp_path}/c.yaml")
    assert all(words in told for words in ("c.yaml is of another version", "has no init", "train again"))
    config["engine"] = {"_target_": "core.engine.settings.Engine"}
    dump(config, tmp_path / "c.yaml")
    told = message(f"config={tmp_path}/c.yaml")
    assert all(words in told for words in ("c.yaml", "engine: there is no", "It is core.settings.Engine now."))


EDITS = [
    ("optim", None, ["optim is null"]),
    ("size", None, ["size is null"]),
    ("method", 3, ["method is 3"]),
    ("engine._target_", None, ["engine", "_target_"]),
    ("optim._target_", ..., ["optim", "_target_"]),
    ("method._target_", ..., ["method", "_target_"]),
    ("modality.reader", None, ["modality.reader is null", "_target_"]),
    ("modality.reader", ..., ["modality.reader is null", "_target_"]),
    ("modality.reader._target_", ..., ["modality.reader", "_target_"]),
    ("data.source", "foo", ["data.source is foo", "_target_"]),
    ("data.name", ..., ["data.name is null"]),
    ("size.name", ..., ["size.name is null"]),
    ("data.rot", "x", ["data.rot", "There are:"]),
    ("modality.rader", {}, ["modality.rader", "Did you mean reader"]),
    ("optim.beta", [0.9, 0.9], ["optim.beta", "betas"]),
    ("method.masker.ration", 0.5, ["method.masker.ration", "ratio"]),
    ("stepz", 3, ["stepz", "Did you mean steps"]),
    ("steps", "abc", ["steps=abc", "whole number"]),
    ("seed", ..., ["no seed"]),
]


@pytest.mark.parametrize(("key", "value", "words"), EDITS)
def test_an_edited_config_is_one_message_with_file_and_key(tmp_path, key, value, words):
    """`...`: the key is taken out."""
    config = compose(["modality=image"])
    *parents, name = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[name] = value
    if value is ...:
        del node[name]
    dump(config, tmp_path / "config.yaml")
    with pytest.raises(UserError) as caught:
        compose([f"config={tmp_path}/config.yaml"])
    assert all(word in str(caught.value) for word in ("config.yaml is of another version", *words)), caught.value
    assert "\n" not in str(caught.value)


def test_a_saved_config_opens_without_the_files_it_came_from(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("extends: mae\nmasker: {ratio: 0.6}\n")
    config = compose(["modality=image", "method=mine"], [tmp_path])
    dump(config, tmp_path / "config.yaml")
    assert compose([f"config={tmp_path}/config.yaml"]) == config


# What there is


def test_plug_in_adds_modalities_and_methods():
    config = composed("modality=toy_sound", "method=toy_listen")
    assert config["method"]["masker"]["ratio"] == 0.3
    assert choices.plugins()["toy"] == "lacuna_toy"
    assert official_names()["listen"] == "lacuna_toy.parts.mse"


def test_plug_in_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone-1.dist-info").mkdir()
    (tmp_path / "gone-1.dist-info" / "entry_points.txt").write_text("[lacuna.plugins]\ngone = not_there\n")
    (tmp_path / "gone-1.dist-info" / "METADATA").write_text("Name: gone\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "'gone'" in message()


def test_choices_are_described_by_their_first_comment():
    described = describe_choices(TREE)
    assert described["modality"]["toy_video"] == "Toy clips."
    assert described["modality"]["toy_sound"] == "Sound, from a plug-in."
    assert described["experiment"]["toy_paper"] == "One published number."


# The real tree

GROUPS = {group: sorted(choices.choices(group)) for group in choices.GROUPS}


@pytest.mark.parametrize("group", choices.GROUPS)
def test_every_file_says_what_it_is(group):
    assert all(describe_choices()[group][name] for name in GROUPS[group])


@pytest.mark.parametrize("modality", GROUPS["modality"])
@pytest.mark.parametrize("size", ["nano", "giant"])
def test_every_modality_composes_at_any_size(modality, size):
    config = compose([f"modality={modality}", f"size={size}"])
    assert config["modality"]["name"] == modality
    assert "${" not in yaml.safe_dump(config)


@pytest.mark.parametrize(
    "choice", [f"{group}={name}" for group in ("optim", "engine", "experiment") for name in GROUPS[group]]
)
def test_every_choice_composes(choice):
    group, _, name = choice.partition("=")
    try:
        config = compose([choice])
    except UserError as error:
        assert "data.root=<value>" in str(error)
        config = compose([choice, "data.root=x"])
    assert name in (config[group], config[group].get("name") if isinstance(config[group], dict) else None)


@pytest.mark.parametrize("modality", GROUPS["modality"])
def test_real_config_survives_saving(modality, tmp_path):
    config = compose([f"modality={modality}"])
    dump(config, tmp_path / "config.yaml")
    assert compose([f"config={tmp_path}/config.yaml"]) == config


# Renames


@pytest.mark.parametrize("name", RENAMES)
def test_an_old_word_is_answered_with_the_new_one(name):
    """Where it is not at hand, which a word that has another meaning elsewhere may be."""
    assert suggestion(name.rpartition(".")[2], ["a", "b"], whole=name) == f" It is {RENAMES[name]} now."


def test_old_words_in_overrides():
    assert "It is extends" in message("method.masker.defaults=1")


@pytest.mark.parametrize("text", ["{a:1}", "{_target_:core.maskers.RandomMasker,ratio:0.5}", "{a: {b:1}}", "[{a:1}]"])
def test_a_colon_without_its_space_is_told(text):
    """YAML takes "a:1" for a key without a value."""
    with pytest.raises(UserError, match="a space follows each colon"):
        parse(text)


@pytest.mark.parametrize("text", ["{a: 1}", "{a: null}", "[a:1]", "{a: 'b:1'}"])
def test_other_colons_stay(text):
    assert parse(text) == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["[runs/a,", "{a:", "'two", '"two', "[{a: 1},"])
def test_values_that_the_shell_divided_at_a_space_are_told(text):
    with pytest.raises(UserError, match="Put the whole setting in quotes"):
        parse(text)


@pytest.mark.parametrize(
    ("modality", "typed", "offered", "others"),
    [
        ("image", "data=foldr", "folder, world", "graph_sampled"),
        ("graph", "data=foldr", "graph_sampled", "point"),
        ("image", "method=mea", "mae", "graphmae"),
        ("video", "method=videomaev3", "videomae, videomaev2", "graphmae"),
    ],
)
def test_misspelt_names_offer_those_that_go_with_the_modality(modality, typed, offered, others):
    with pytest.raises(UserError) as error:
        compose([f"modality={modality}", typed])
    choices = str(error.value).partition("There are: ")[2]
    assert offered in choices and others not in choices


@pytest.mark.parametrize(
    ("modality", "data", "offered"),
    [("image", "world", "data=folder, which has it"), ("graph", "world", "data=graph_sampled or data=folder")],
)
def test_a_setting_of_other_files_offers_those_that_take_the_modality(modality, data, offered):
    with pytest.raises(UserError, match=f"there is no data.root. Choose {offered}"):
        compose([f"modality={modality}", f"data={data}", "data.root=x"])
