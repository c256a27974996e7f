"""The same result with and without jit, on a device and from the host, and under pmap (chex's variants)."""

import chex
import jax.numpy as jnp
import laws
import numpy as np
from absl.testing import parameterized

NAMES = ("sample_accuracy", "class_mean", "class_scale_running", "pgd_head")


class VariantsTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True, with_pmap=True)
    @parameterized.named_parameters((name, name) for name in NAMES)
    def test_update(self, name):
        tx, d = laws.TABLE[name](0.3), laws.draw(21)
        state = laws.warm(tx)

        @self.variant
        def update(rows, state, arguments):
            return tx.update(rows, state, None, **arguments)

        edited, new = update(laws.gradient_rows(d), state, laws.keywords(d))
        expected, expected_new = laws.update(tx, d, state)
        np.testing.assert_allclose(edited, expected, atol=1e-6)
        chex.assert_trees_all_close(new, expected_new, atol=1e-6)
        assert np.any(np.asarray(edited) != np.asarray(jnp.asarray(laws.gradient_rows(d))))
