"""Algorithm 1 of Zhang et al. 2023: THE loop."""

from collections.abc import Callable

from condense_core.data.class_sampler import ClassSampler
from condense_core.loop_state import LoopState
from condense_core.monitor import Monitor
from condense_core.networks import FeatureNetwork
from condense_core.objectives.feature import weighted_sum
from condense_core.runlog import RunLog
from condense_core.seeding import make_generator


def condense_loop(
    state: LoopState,
    *,
    sampler: ClassSampler,
    teacher: FeatureNetwork | None,
    log: RunLog,
    save: Callable[[LoopState], None],
    probe: Callable[[int], float],
) -> None:
    """Run or continue Algorithm 1 on ``state``, in place.

    Args:
        state: Everything that changes; `LoopState.outer` says where to go on.
        sampler: The training data T, on the device.
        teacher: Source of soft labels; None for hard labels.
        log: Metrics and progress.
        save: Called after every outer iteration; decides itself whether to write.
        probe: Called with the step every ``evaluate.probe_every`` generator updates,
            returns an accuracy to log. Nothing is selected by it.

    Raises:
        RunError: The loss is not finite at a step that is logged.
    """
    config, loop = state.config, state.config.loop
    monitor = Monitor(config, log, probe, state.ranks)
    for outer in range(state.outer, loop.restarts * loop.network_updates):
        # repeat: initialise network parameters theta
        restart, n = divmod(outer, loop.network_updates)
        if n == 0:
            state.initialise_network(restart)
        association = None

        for i in range(loop.generator_updates):
            step = outer * loop.generator_updates + i
            rng = make_generator(config.seed, "step", step)
            state.decay(step / loop.total)

            # Sample associations T_i from T, seen through phi
            if association is None or not loop.reuse_association:
                association = state.associate(sampler, teacher, rng)

            # Sample codes from Z, generate the synthetic set S_i
            synthetic = state.synthesise(association, rng)

            # Compute L_con from T_i and S_i using phi
            terms, features = state.condensation_terms(
                step, synthetic, association, sampler
            )
            total = weighted_sum(terms, config.loss)
            monitor.before_update(step, terms, synthetic.normalised_YKCHW)

            # Update (Z, G)
            state.update_generator(total, synthetic, association)

            # max_D of Eq. 1
            terms |= state.update_discriminator(features, synthetic, association)
            monitor.after_update(step, terms, total)

        # Inner loop: update theta with L_cls on real images
        for k in range(loop.network_steps):
            state.train_network(sampler, outer, k)
        state.outer = outer + 1
        save(state)
