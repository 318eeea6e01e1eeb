"""The schema language of config specs: what is converted, what is refused, and how the user is told."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from epsball.build import ConfigError, build, construct, convert, did_you_mean, require


@dataclass(frozen=True)
class Wheel:
    radius: float
    spokes: int = 8

    def __post_init__(self) -> None:
        require(self.radius > 0, f"radius should be positive, is {self.radius}")


WHEELS = {"wheel": Wheel}


@dataclass(frozen=True)
class Cart:
    first: Annotated[Wheel, WHEELS]
    spare: Annotated[Wheel, Wheel] | None


def ratio(base: int, *, over: int) -> float:
    """A function with one positional parameter that the program, not the config, fills."""
    require(over != 0, "over should not be 0")
    return base / over


def message(hint: Any, value: object) -> str:
    with pytest.raises(ConfigError) as caught:
        convert(value, hint, "a.b")
    text = str(caught.value)
    assert "\n" not in text
    return text


ACCEPTED: list[tuple[Any, object, object]] = [
    (float, 1, 1.0),
    (float, 0.5, 0.5),
    (int, 3, 3),
    (bool, True, True),
    (str, "x", "x"),
    (Any, [1, "x"], [1, "x"]),
    (Literal["true", "predicted"], True, "true"),  # YAML reads the bare word as a boolean
    (Literal["true", "false"], False, "false"),
    (Literal["true", "predicted"], "true", "true"),
    (Literal[1, 2], 2, 2),
    (float | None, None, None),
    (float | None, 2, 2.0),
    (int | Literal["kurakin"], "kurakin", "kurakin"),
    (int | Literal["kurakin"], 7, 7),
    (list[float], [1, 2], [1.0, 2.0]),
    (list[float], (1, 2), [1.0, 2.0]),
    (tuple[float, ...], [1, 2], (1.0, 2.0)),
    (tuple[float, ...], [], ()),
    (list[list[int]], [[1], []], [[1], []]),
    (dict[str, float], {"a": 1}, {"a": 1.0}),
    (dict[str, dict[str, Any]], {"a": {"b": None}}, {"a": {"b": None}}),
    (list[Literal["true"]], [True], ["true"]),
]


@pytest.mark.parametrize(("hint", "value", "expected"), ACCEPTED, ids=str)
def test_accepted(hint: Any, value: object, expected: object) -> None:
    result = convert(value, hint, "a.b")
    assert result == expected and type(result) is type(expected)


REFUSED: list[tuple[Any, object, str]] = [
    (float, "8/255", "a.b should be a float, is '8/255' (write ${frac:8,255})"),
    (float, " 8 / 255 ", "a.b should be a float, is ' 8 / 255 ' (write ${frac:8,255})"),
    (float, "x/y", "a.b should be a float, is 'x/y'"),
    (float, "0.5", "a.b should be a float, is '0.5'"),
    (float, True, "a.b should be a float, is true"),
    (float, None, "a.b should be a float, is null"),
    (int, True, "a.b should be an int, is true"),
    (int, 3.0, "a.b should be an int, is 3.0"),
    (bool, 1, "a.b should be true or false, is 1"),
    (bool, "yes", "a.b should be true or false, is 'yes'"),
    (str, 3, "a.b should be a text, is 3"),
    (Literal["sign", "l2"], "l1", "a.b should be one of sign, l2, is 'l1'"),
    (Literal["sign", "l2"], True, "a.b should be one of sign, l2, is true"),
    (float | None, "1/3", "a.b should be a float or null, is '1/3' (write ${frac:1,3})"),
    (int | Literal["kurakin"], True, "a.b should be an int or one of kurakin, is true"),
    (list[float], 3.0, "a.b should be a list, each a float, is 3.0"),
    (list[float], [1.0, "1/2"], "a.b[1] should be a float, is '1/2' (write ${frac:1,2})"),
    (tuple[float, ...], "ab", "a.b should be a list, each a float, is 'ab'"),
    (list[float | None] | None, "ab", "a.b should be a list, each a float or null or null, is 'ab'"),
    (list[float | None] | None, [None, "1/2"], "a.b[1] should be a float or null, is '1/2' (write ${frac:1,2})"),
    (dict[str, list[float]] | None, {"c": [1, None]}, "a.b.c[1] should be a float, is null"),
    (
        dict[str, list[str] | dict[str, str]],
        {"c": ["x", 1]},
        "a.b.c should be a list, each a text or {NAME: a text}, is ['x', 1]",
    ),
    (dict[str, float], {"c": "x"}, "a.b.c should be a float, is 'x'"),
    (dict[str, float], [1], "a.b should be {NAME: a float}, is [1]"),
    (list[dict[str, int]], [{"c": 1}, {"c": None}], "a.b[1].c should be an int, is null"),
    (Annotated[Wheel, WHEELS], 3, "a.b should be a group of fields, is 3"),
    (Annotated[Wheel, Wheel] | None, 3, "a.b should be a group of fields, is 3"),
]


@pytest.mark.parametrize(("hint", "value", "text"), REFUSED, ids=str)
def test_refused(hint: Any, value: object, text: str) -> None:
    assert message(hint, value) == text


# ---- nested components


def test_nested_components_with_and_without_a_name() -> None:
    cart = construct(Cart, {"first": {"name": "wheel", "radius": 1}, "spare": {"radius": 2.0, "spokes": 4}}, where="")
    assert cart == Cart(Wheel(1.0), Wheel(2.0, 4))
    assert construct(Cart, {"first": {"name": "wheel", "radius": 1}, "spare": None}, where="").spare is None


NESTED: list[tuple[dict[str, Any], str]] = [
    ({"first": {"radius": 1.0}, "spare": None}, "cart.first.name is missing: choose one of wheel"),
    ({"first": {"name": "wheel", "radius": -1}, "spare": None}, "cart.first.radius should be positive, is -1.0"),
    ({"first": {"name": "wheel"}, "spare": None}, "cart.first.radius is missing: it should be a float"),
    ({"first": {"name": "wheel", "radius": 1}}, "cart.spare is missing: it should be a group of fields or null"),
    (
        {"first": {"name": "wheel", "radius": 1}, "spare": {"radius": "1/2"}},
        "cart.spare.radius should be a float, is '1/2' (write ${frac:1,2})",
    ),
    (
        {"first": {"name": "wheel", "radius": 1}, "spare": {"radios": 1}},
        "cart.spare.radios is not a field (did you mean 'radius'?): the fields are radius, spokes",
    ),
    (
        {"first": {"name": "wheels", "radius": 1}, "spare": None},
        "cart.first.name is 'wheels' (did you mean 'wheel'?): choose one of wheel",
    ),
]


@pytest.mark.parametrize(("fields", "text"), NESTED, ids=[text for _, text in NESTED])
def test_a_nested_mistake_names_its_full_key(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        construct(Cart, fields, where="cart")
    assert str(caught.value) == text


# ---- names, fields, context


def test_context_fills_the_positional_parameters() -> None:
    assert build({"ratio": ratio}, {"name": "ratio", "over": 2}, 3, where="r") == 1.5


def test_a_config_cannot_set_what_the_program_fills() -> None:
    with pytest.raises(ConfigError, match=r"^r\.base is not a field \(~r\.base leaves it out\): the fields are over$"):
        build({"ratio": ratio}, {"name": "ratio", "over": 2, "base": 1}, 3, where="r")


def test_a_functions_value_error_gets_the_callers_key() -> None:
    with pytest.raises(ConfigError, match=r"^r\.over should not be 0$"):
        build({"ratio": ratio}, {"name": "ratio", "over": 0}, 3, where="r")


@dataclass(frozen=True)
class Loop:
    for_: list[int]
    """a word of Python's own: `for` in YAML"""
    or_: int = 0


def test_a_field_named_by_a_word_of_python_has_that_name_in_yaml() -> None:
    assert construct(Loop, {"for": [1], "or": 2}, where="") == Loop([1], 2)
    for fields, message in {
        "for_": ({"for_": [1]}, "l.for_ is not a field (did you mean 'for'?): the fields are for, or"),
        "missing": ({"or": 1}, "l.for is missing: it should be a list, each an int"),
        "wrong": ({"for": ["x"]}, "l.for[0] should be an int, is 'x'"),
    }.values():
        with pytest.raises(ConfigError) as caught:
            construct(Loop, fields, where="l")
        assert str(caught.value) == message


def test_a_parameter_without_a_type_is_told() -> None:
    def my_net(shape: int, *, width, depth: int = 2) -> int:  # type: ignore[no-untyped-def]
        return width * depth

    for fields in ({}, {"width": 3}):
        with pytest.raises(ConfigError) as caught:
            build({"my_net": my_net}, {"name": "my_net", **fields}, 1, where="arch")
        assert str(caught.value) == "arch: my_net.width needs a type annotation"


def test_other_errors_are_ours_and_pass_through() -> None:
    def broken(*, over: int) -> None:
        raise KeyError(over)

    with pytest.raises(KeyError):
        build({"broken": broken}, {"name": "broken", "over": 0}, where="r")


@pytest.mark.parametrize("spec", [None, 3, "wheel", ["wheel"]])
def test_what_is_not_a_group_of_fields(spec: object) -> None:
    with pytest.raises(ConfigError, match=r"^w should be a group of fields, is "):
        build(WHEELS, spec, where="w")


@pytest.mark.parametrize("name", ["spiral", None, 3, True, ["wheel"], {"wheel": None}])
def test_an_unknown_name_of_any_type_is_told(name: object) -> None:
    with pytest.raises(ConfigError, match=r"^w\.name is .*: choose one of wheel$"):
        build(WHEELS, {"name": name, "radius": 1.0}, where="w")


@pytest.mark.parametrize("key", ["radios", 3, None])
def test_an_unknown_field_of_any_type_is_told(key: object) -> None:
    with pytest.raises(ConfigError, match=r"^w\..* is not a field.*: the fields are radius, spokes$"):
        build(WHEELS, {"name": "wheel", "radius": 1.0, key: 1}, where="w")


def test_the_spec_is_not_changed() -> None:
    spec = {"name": "wheel", "radius": 1}
    build(WHEELS, spec, where="w")
    assert spec == {"name": "wheel", "radius": 1}


def test_a_top_level_key_has_no_dot_before_it() -> None:
    with pytest.raises(ConfigError, match=r"^radius is missing"):
        construct(Wheel, {}, where="")


def test_suggestions_are_near() -> None:
    assert did_you_mean("radios", ["radius", "spokes"]) == " (did you mean 'radius'?)"
    assert did_you_mean("zzz", ["radius", "spokes"]) == ""
