"""Algorithm 1 of Zhang et al. 2023: THE loop.

Shape legend: Y classes, K codes, C H W image.
"""

from collections.abc import Callable

from condense_core.data.class_sampler import ClassSampler
from condense_core.loop_state import LoopState
from condense_core.networks import FeatureNetwork
from condense_core.objectives.feature import (
    discriminator_terms,
    feature_terms,
    gradient_norms,
    weighted_sum,
)
from condense_core.runlog import RunLog
from condense_core.seeding import make_generator

LOG_EVERY = 20  # generator updates between lines of metrics.jsonl


def condense_loop(
    state: "LoopState",
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
    """
    config, loop, loss = state.config, state.config.loop, state.config.loss
    for outer in range(state.outer, loop.restarts * loop.network_updates):
        # repeat: initialise network parameters theta
        if outer % loop.network_updates == 0:
            state.initialise_network(outer // loop.network_updates)
        association = None

        for i in range(loop.generator_updates):
            step = outer * loop.generator_updates + i
            draw = make_generator(config.seed, "step", step)
            state.decay(step / loop.total)

            # Sample associations T_i from T, seen through phi
            if association is None or not loop.reuse_association:
                association = state.associate(sampler, teacher, draw)

            # Sample codes from Z, generate the synthetic set S_i
            class_ids = association.class_ids_Y
            code_ids = state.draw_codes(draw)
            synthetic_YKCHW = state.synthesiser(class_ids, code_ids)
            images_YKCHW = state.normalise(synthetic_YKCHW)

            # Compute L_con from T_i and S_i using phi
            conditions = state.synthesiser.class_embedding[class_ids]
            terms, judged, features = feature_terms(
                images_YKCHW,
                association,
                network=state.network,
                augment=state.augment,
                discriminator=state.discriminator,
                conditions_YE=conditions,
                config=loss,
                ranks=state.ranks,
            )
            if loss.unrolled:
                terms["unrolled"] = state.unrolled_term(
                    step, images_YKCHW, association, sampler
                )
            if loss.trajectory:
                terms["trajectory"] = state.trajectory_term(
                    step, images_YKCHW, class_ids
                )
            total = weighted_sum(terms, loss)
            norms = {}
            logging = step % LOG_EVERY == 0 or step + 1 == loop.total
            if logging:
                norms = gradient_norms(terms, images_YKCHW, loss, state.ranks)

            # Update (Z, G)
            state.update(total, synthetic_YKCHW, association, code_ids)

            # max_D of Eq. 1
            if loss.adversarial or loss.classifier == "auxiliary":
                judge_loss = discriminator_terms(
                    judged.detach(),
                    features.detach(),
                    association,
                    discriminator=state.discriminator,
                    conditions_YE=conditions,
                    config=loss,
                )
                state.discriminator_optimiser.zero_grad()
                judge_loss.backward()
                state.ranks.sum_gradients(state.discriminator.parameters())
                state.discriminator_optimiser.step()
                terms["discriminator"] = judge_loss

            if logging:
                sums = state.ranks.totals(terms)
                scalars = {f"loss/{name}": term for name, term in sums.items()}
                scalars |= {f"grad_norm/{name}": norm for name, norm in norms.items()}
                log.log(step, **scalars)
            probe_every = config.evaluate.probe_every
            if probe_every and ((step + 1) % probe_every == 0 or step == 0):
                log.log(step, probe_accuracy=probe(step))
            log.advance(step + 1, loss=state.ranks.sum(total.detach()))

        # Inner loop: update theta with L_cls on real images
        for k in range(loop.network_steps):
            state.train_network(sampler, outer, k)
        state.outer = outer + 1
        save(state)
