"""What `explain` is given is what `jax.jit` would be given: nothing is changed on the way to the compiler."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench import explain, explain_call
from normbench.errors import UserError
from normbench.explanation.call import prepared_call
from normbench.explanation.lowering import lowered_call
from normbench.fusion.compilation import compile_bytecode_for
from tests.explanation.programs import BF16, F32, Dense, array

X = array(8, 16, dtype=BF16)


def scaled(x, y):
    return x * y


def entry(function, /, *args, **kwargs):
    """The types of what the compiled program takes and returns, e.g. (bf16[8,16], f32[])->bf16[8,16]."""
    call = prepared_call(function, args, kwargs)
    bytecode, _ = lowered_call(call, "cpu")
    head = compile_bytecode_for(bytecode, "cpu", 0.0).hlo_text.split("\n")[0]
    layout = head.split("entry_computation_layout={")[1].split("}, frontend")[0].rstrip("}")
    return "".join(part.split("{")[0] for part in layout.split("}"))


@pytest.mark.parametrize(
    ("scale", "taken"),
    [
        (3, "s32[]"),
        (0.5, "f32[]"),
        (True, "pred[]"),
        (jnp.asarray(0.1), "f32[]"),
        (array(dtype=F32, weak_type=True), "f32[]"),
        (array(dtype=jnp.int8), "s8[]"),
        (np.float16(2), "f16[]"),
    ],
)
def test_a_scalar_keeps_its_dtype_and_its_weak_type(scale, taken):
    types = entry(scaled, X, scale)
    assert taken in types
    expected = jax.eval_shape(scaled, X, scale)
    assert types.endswith(f"->{'bf16' if expected.dtype == BF16 else 'f32'}[8,16]")


def test_a_strong_scalar_promotes_as_it_does_under_jit():
    assert entry(scaled, X, array()).endswith("->f32[8,16]")


def test_keywords_and_static_arguments_of_a_jitted_function_are_kept():
    summed = jax.jit(lambda x, axis: x.sum(axis), static_argnames="axis")
    assert entry(summed, X, axis=-1).endswith("->bf16[8]")
    assert entry(jax.jit(lambda axis, x: x.sum(axis), static_argnums=0), 0, X).endswith("->bf16[16]")
    assert entry(lambda x, *, scale: x * scale, X, scale=array(16, dtype=BF16)).endswith("->bf16[8,16]")


@pytest.mark.parametrize("how", [{"donate_argnums": 0}, {"donate_argnames": "x"}])
def test_a_donated_argument_stays_donated(how):
    report = explain(jax.jit(scaled, **how), X, X, target="cpu")
    assert "input_output_alias" in report.hlo.split("\n")[0]
    assert "input_output_alias" not in explain(scaled, X, X, target="cpu").hlo.split("\n")[0]


def test_a_jitted_function_is_not_wrapped_whatever_its_static_arguments_are():
    named = jax.jit(lambda x, name: getattr(jnp, name)(x), static_argnames="name", donate_argnums=0)
    report = explain(named, X, name="tanh", target="cpu")
    assert "input_output_alias" in report.hlo.split("\n")[0]


def test_functions_and_words_among_the_arguments_are_held_fixed():
    weight = array(16, 4, dtype=BF16)
    assert entry(lambda p, x: p["act"](x @ p["w"]), {"act": jax.nn.relu, "w": weight}, X).endswith("->bf16[8,4]")
    assert entry(lambda x, name: getattr(jnp, name)(x), X, "tanh").endswith("->bf16[8,16]")
    assert entry(lambda nothing, x: x + 1, None, X).endswith("->bf16[8,16]")


@pytest.mark.parametrize("weight", [array(16, 4), jnp.ones((16, 4))])
def test_the_arrays_of_a_module_are_inputs_whether_it_is_called_or_handed_over(weight):
    module = Dense(weight, jax.nn.relu)
    for types in (entry(module, array(8, 16)), entry(lambda m, x: m(x), module, array(8, 16))):
        assert types.startswith("(f32[16,4]")
        assert types.endswith("->f32[8,4]")
    assert explain(module, array(8, 16), target="cpu").name == "Dense"


def test_numbers_are_inputs_but_in_a_module_settings():
    def dropped(settings, x):
        return x * settings["rate"] if settings["act"] else x

    assert entry(lambda rates, x: x * rates["a"], {"a": 0.5}, X) == "(f32[], bf16[8,16])->bf16[8,16]"
    assert entry(dropped, {"rate": 0.5, "act": jax.nn.relu}, X) == "(bf16[8,16])->bf16[8,16]"
    module = Dense(array(16, 4), jax.nn.relu).off()
    assert entry(lambda m, x: m(x) if m.activation else x, module, array(8, 16)).endswith("->f32[8,16]")


def test_the_names_of_arguments_stay_in_the_program():
    report = explain(lambda m, x: m(x), Dense(array(16, 4), jax.nn.relu), array(8, 16), target="cpu")
    assert 'op_name="m.weight"' in report.hlo
    assert 'op_name="x"' in report.hlo


def test_keys_are_taken_as_keys_and_as_their_shapes():
    for key in (jax.random.key(0), jax.eval_shape(lambda: jax.random.key(0)), jax.random.PRNGKey(0)):
        assert entry(lambda key: jax.random.normal(key, (4,)), key) == "(u32[2])->f32[4]"


@pytest.mark.parametrize("wide", [array(4, dtype=np.float64), np.ones(4), array(4, dtype=np.int64)])
def test_what_jax_would_narrow_unasked_is_refused_with_the_setting(wide):
    with pytest.raises(UserError, match=rf"argument 1 is {wide.dtype}, .*jax_enable_x64"):
        explain(scaled, array(4), wide, target="cpu")


def test_integers_of_numpy_are_narrowed_as_under_jit_and_the_report_says_so():
    report = explain(lambda x, labels: x[labels["y"]], array(9), {"y": np.arange(4)}, target="cpu")
    assert report.notes == ("argument 1['y'] is int64; the program takes int32, as jax_enable_x64 is off",)
    assert "notes:\n  - argument 1['y'] is int64" in repr(report)


def test_float64_stays_float64_where_it_is_enabled():
    with jax.enable_x64(True):
        assert entry(scaled, np.ones(4), array(4, dtype=np.float64)) == "(f64[4], f64[4])->f64[4]"


def test_a_dtype_that_jax_has_not_is_refused():
    with pytest.raises(UserError, match="argument 1 is a ndarray of <U1, which is no dtype of JAX"):
        explain(scaled, X, np.array(["a"]), target="cpu")


def test_an_argument_called_target_is_reached():
    def loss(x, target):
        return ((x - target) ** 2).mean()

    report = explain_call(loss, (X,), {"target": X}, target="cpu")
    assert (report.name, report.target) == ("loss", "cpu")
    with pytest.raises(UserError, match=r"target is a ShapeDtypeStruct; .* explain_call\(function, args, kwargs"):
        explain(loss, X, target=X)
    assert explain(functools.partial(loss, target=jnp.ones((8, 16))), X, target="cpu").name == "loss"


def test_an_argument_called_function_is_no_trouble():
    assert entry(lambda x, function: x * function, X, function=X).endswith("->bf16[8,16]")


@pytest.mark.parametrize("sharded", ["argument", "in_shardings", "shard_map", "constraint"])
def test_shardings_over_one_device_are_taken(sharded):
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    axis = jax.sharding.PartitionSpec("d")
    sharding = jax.sharding.NamedSharding(mesh, axis)
    function, x = {
        "argument": (lambda x: x * 2, array(8, 16, sharding=sharding)),
        "in_shardings": (jax.jit(lambda x: x * 2, in_shardings=sharding), array(8, 16)),
        "shard_map": (
            jax.shard_map(lambda x: x + jax.lax.psum(x, "d"), mesh=mesh, in_specs=axis, out_specs=axis),
            array(8, 16),
        ),
        "constraint": (lambda x: jax.lax.with_sharding_constraint(x * 2, sharding), array(8, 16)),
    }[sharded]
    bytecode, _ = lowered_call(prepared_call(function, (x,), {}), "h200")
    assert bytecode


def test_what_is_no_function_is_refused():
    with pytest.raises(UserError, match="function is 3; it must be callable"):
        explain(3, X, target="cpu")


def test_an_error_of_the_function_itself_is_left_as_it_is():
    with pytest.raises(ZeroDivisionError):
        explain(lambda x: x / (1 // 0), X, target="cpu")


@pytest.mark.parametrize(
    ("args", "kwargs", "timeout_s", "words"),
    [
        (X, {}, 300.0, "args is a ShapeDtypeStruct; allowed: a sequence"),
        ((X,), X, 300.0, "kwargs is a ShapeDtypeStruct; allowed: a mapping"),
        ((X,), None, 0, "timeout_s is 0; allowed: a number of seconds above 0"),
        ((X,), None, "long", "timeout_s is 'long'; allowed: a number of seconds above 0"),
    ],
)
def test_what_is_no_call_is_said_in_one_line(args, kwargs, timeout_s, words):
    with pytest.raises(UserError, match=words):
        explain_call(jnp.tanh, args, kwargs, target="cpu", timeout_s=timeout_s)
