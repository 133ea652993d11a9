"""With parea-ai 0.2.220: datasets, and an experiment over one."""

import json

from attrs import asdict
from parea import Parea, trace
from parea.schemas import EvaluationResult, ListExperimentUUIDsFilters, TraceLogFilters, UpdateTestCase

p = Parea(project_name="default")
p.create_test_collection(
    [{"x": "1+1", "target": "2", "tags": ["math"]}, {"x": "2+2", "deep": {"a": 1}, "target": 4}], name="sums"
)
p.add_test_cases([{"x": "3+3", "target": "6"}], name="sums")
dataset = p.get_collection("sums")
first = dataset.testcases[0]
p.update_test_case(dataset.id, first.id, UpdateTestCase(target="two"))
p.add_test_cases([{"x": "4+4"}], dataset_id=dataset.id)
changed = p.get_collection(dataset.id)


def exact(log):
    return EvaluationResult(name="exact", score=float(log.output == log.target))


@trace
def inner(x):
    return x[0]


@trace(eval_funcs=[exact])
def double(x):
    return str(2 * int(inner(x)))


def balance(logs):
    return EvaluationResult(name="balance", score=sum(len(log.inputs) for log in logs) / 10)


experiment = p.experiment(
    name="greeting",
    data=[{"x": "1", "target": "2"}, {"x": "2", "target": "5"}],
    func=double,
    metadata={"team": "a"},
    dataset_level_evals=[balance],
)
experiment.run(run_name="calm-owl")
stats = experiment.experiment_stats
listed = p.list_experiments(ListExperimentUUIDsFilters(experiment_name_filter="greet"))
logs = p.get_experiment_trace_logs(experiment.experiment_uuid, TraceLogFilters())
print(
    json.dumps(
        {
            "dataset": asdict(dataset),
            "changed": [[case.inputs, case.target, case.tags] for case in changed.testcases],
            "none": p.get_collection("none"),
            "avg": stats.avg_scores,
            "stats": asdict(p.get_experiment_stats(experiment.experiment_uuid)),
            "listed": [asdict(one) for one in listed],
            "one": asdict(p.get_experiment(experiment.experiment_uuid)),
            "logs": [asdict(log) for log in logs],
            "uuid": experiment.experiment_uuid,
        }
    )
)
