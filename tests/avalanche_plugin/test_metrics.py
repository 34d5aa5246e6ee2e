from avalanche.benchmarks import nc_benchmark
from avalanche.logging import TextLogger
from avalanche.models import MTSimpleMLP
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin

from avalanche_plugin import CondensedBuffer, replay_memory_metrics
from tests.avalanche_plugin.streams import ORDER, replay, strategy


def test_bytes_show_in_results_and_logs(pairs, instant, tmp_path):
    benchmark = nc_benchmark(
        *pairs, n_experiences=5, task_labels=False, fixed_class_order=ORDER
    )
    with open(tmp_path / "log.txt", "w+") as file:
        evaluator = EvaluationPlugin(
            replay_memory_metrics(), loggers=[TextLogger(file)]
        )
        plugin = replay(instant)
        run = strategy([plugin], evaluator=evaluator)
        for experience in benchmark.train_stream[:2]:
            trained = run.train(experience)
            found = [v for k, v in trained.items() if k.startswith("ReplayBytes_Exp")]
            assert found[-1] == plugin.nbytes
        result = run.eval(benchmark.test_stream[:1])
        (total,) = [v for k, v in result.items() if k.startswith("ReplayBytes_Stream")]
        assert total == plugin.nbytes > 0
        file.seek(0)
        assert "ReplayBytes_Exp" in file.read()


def test_a_strategy_without_replay_has_zero(pairs):
    evaluator = EvaluationPlugin(replay_memory_metrics(), loggers=[])
    run = strategy([], evaluator=evaluator)
    benchmark = nc_benchmark(*pairs, n_experiences=5, task_labels=False)
    trained = run.train(benchmark.train_stream[0])
    assert [v for k, v in trained.items() if k.startswith("ReplayBytes")] == [0.0]


def test_bytes_of_a_storage_policy_are_counted(pairs, instant):
    buffer = CondensedBuffer(200, samples=20, preset=instant)
    evaluator = EvaluationPlugin(replay_memory_metrics(), loggers=[])
    plugin = ReplayPlugin(mem_size=200, storage_policy=buffer)
    run = strategy([plugin], evaluator=evaluator)
    benchmark = nc_benchmark(*pairs, n_experiences=5, task_labels=False)
    run.train(benchmark.train_stream[0])
    result = run.eval(benchmark.test_stream[:1])
    (total,) = [v for k, v in result.items() if k.startswith("ReplayBytes_Stream")]
    assert total == buffer.nbytes > 0


def test_a_stream_with_tasks_has_one_value_and_not_one_a_task(pairs, instant):
    benchmark = nc_benchmark(*pairs, n_experiences=5, task_labels=True)
    evaluator = EvaluationPlugin(replay_memory_metrics(), loggers=[])
    plugin = replay(instant)
    run = strategy([plugin], MTSimpleMLP(input_size=256), evaluator=evaluator)
    for number in range(2):
        run.train(benchmark.train_stream[number])
        result = run.eval(benchmark.test_stream[: number + 1])
    found = {k: v for k, v in result.items() if k.startswith("ReplayBytes_Stream")}
    assert found == {"ReplayBytes_Stream/eval_phase/test_stream": plugin.nbytes}


def test_either_can_be_left_out():
    assert [str(m) for m in replay_memory_metrics(stream=False)] == ["ReplayBytes_Exp"]
    assert [str(m) for m in replay_memory_metrics(experience=False)] == [
        "ReplayBytes_Stream"
    ]
