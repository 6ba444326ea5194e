"""microparallel against torch.distributed: four gloo processes, DDP, and torch's own schedules."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from support import load_script
from torch.distributed.pipelining import schedules

script = load_script("microparallel")
NUM_RANKS = 4
NUM_STEPS = 5

# One of torch's four processes. It gets its numbers from a file and writes what it found to one.
WORKER = """
import json, sys
import torch
import torch.distributed as dist
import torch.nn.functional as F

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
with open(folder + "/job.json", encoding="utf-8") as file:
    job = json.load(file)
dist.init_process_group("gloo", init_method="file://" + folder + "/meet", rank=rank, world_size=4)
found = {}

vector = torch.tensor(job["vectors"][rank])
total = vector.clone()
dist.all_reduce(total)
chunk = torch.empty(len(vector) // 4)
dist.reduce_scatter_tensor(chunk, vector.clone())
gathered = torch.empty(4 * len(vector))
dist.all_gather_into_tensor(gathered, vector)
found["all_reduce"], found["reduce_scatter"] = total.tolist(), chunk.tolist()
found["all_gather"] = gathered.tolist()


class Network(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.w = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(w)) for w in weights])

    def forward(self, x):
        x = F.linear(x, self.w[0])
        for i in range(1, len(self.w) - 1, 2):
            x = x + F.linear(F.relu(F.linear(x, self.w[i])), self.w[i + 1])
        return F.linear(x, self.w[-1])


network = Network(job["weights"])
ddp = torch.nn.parallel.DistributedDataParallel(network)
optimiser = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=job["momentum"])
for (images, labels), rate in zip(job["batches"], job["rates"]):
    size = len(labels) // 4
    mine = slice(rank * size, (rank + 1) * size)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss = F.cross_entropy(ddp(torch.tensor(images[mine])), torch.tensor(labels[mine]))
    loss.backward()
    optimiser.step()
found["ddp"] = [w.tolist() for w in network.w]
with open(f"{folder}/found{rank}.json", "w", encoding="utf-8") as file:
    json.dump(found, file)
dist.barrier()
dist.destroy_process_group()
"""


def problem(rows=16):
    """Weights, and batches of random images."""
    rng = random.Random(5)
    weights = script.new_weights(rng)
    batches = []
    for _ in range(NUM_STEPS):
        images = [[rng.random() for _ in range(64)] for _ in range(rows)]
        batches.append((images, [rng.randrange(10) for _ in range(rows)]))
    return weights, batches


VECTORS = [[random.Random(rank).gauss(0, 1) for _ in range(64)] for rank in range(NUM_RANKS)]


@pytest.fixture(scope="module")
def gloo(tmp_path_factory):
    """What each of torch's four processes found."""
    folder = tmp_path_factory.mktemp("gloo")
    weights, batches = problem()
    rates = [script.learning_rate(step, NUM_STEPS) for step in range(NUM_STEPS)]
    job = {"weights": weights, "batches": batches, "rates": rates, "momentum": script.MOMENTUM}
    (folder / "job.json").write_text(json.dumps({**job, "vectors": VECTORS}), encoding="utf-8")
    (folder / "worker.py").write_text(WORKER, encoding="utf-8")
    command = [sys.executable, "-B", str(folder / "worker.py")]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(folder)], stderr=subprocess.PIPE, encoding="utf-8"
        )
        for rank in range(NUM_RANKS)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * NUM_RANKS, errors
    return [
        json.loads((folder / f"found{rank}.json").read_text(encoding="utf-8"))
        for rank in range(NUM_RANKS)
    ]


@pytest.mark.parametrize("name", ["all_reduce", "reduce_scatter", "all_gather"])
def test_collectives(gloo, name):
    def program(wire):
        return (yield from getattr(script, name)(wire, VECTORS[wire.rank]))

    for ours, theirs in zip(script.run_in_turns(program, NUM_RANKS), gloo, strict=True):
        assert ours == pytest.approx(theirs[name], rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("way", list(script.ways()))
def test_five_steps_of_ddp(gloo, way):
    """Every way ends at the weights of torch's DistributedDataParallel, the pipelines too."""
    weights, batches = problem()
    program, more, join = script.ways()[way]
    results = script.run_in_turns(program, NUM_RANKS, weights, batches, *more)
    joined = join([result["weights"] for result in results])
    for theirs in gloo:
        assert script.largest_difference(joined, theirs["ddp"]) < 1e-13
    assert script.largest_difference(joined, weights) > 1e-3


def test_a_sum_instead_of_a_mean_is_not_ddp(gloo):
    broken = load_script("microparallel")
    weights, batches = problem()

    def unweighted(wire, layers, batch):
        mine = broken.share(len(batch[1]), wire.rank, wire.num_ranks)
        return broken.backward_of(layers, batch[0][mine], batch[1][mine], 1.0)

    broken.share_of_gradient = unweighted
    program, more, _ = broken.ways()["data parallel"]
    results = broken.run_in_turns(program, NUM_RANKS, weights, batches, *more)
    assert script.largest_difference(results[0]["weights"], gloo[0]["ddp"]) > 1e-3


def test_tensor_parallel_gradients():
    """Each rank's gradients are the rows and columns of torch's gradients of the whole network."""
    weights, batches = problem()
    images, labels = batches[0]

    def program(wire):
        layers = [script.Tensor(w) for w in script.cut_blocks(weights, wire.rank, NUM_RANKS)]
        loss = yield from script.tensor_parallel(wire, layers, batches[0])
        return loss, [layer.grad for layer in layers]

    whole = [torch.tensor(w, dtype=torch.float64, requires_grad=True) for w in weights]
    x = F.linear(torch.tensor(images, dtype=torch.float64), whole[0])
    for w1, w2 in zip(whole[1:-1:2], whole[2:-1:2]):
        x = x + F.linear(F.relu(F.linear(x, w1)), w2)
    loss = F.cross_entropy(F.linear(x, whole[-1]), torch.tensor(labels))
    loss.backward()
    expected = [w.grad.tolist() for w in whole]
    results = script.run_in_turns(program, NUM_RANKS)
    assert sum([part for part, _ in results]) == pytest.approx(loss.item(), rel=1e-12)
    for rank, (_, grads) in enumerate(results):
        cut = script.cut_blocks(expected, rank, NUM_RANKS)
        assert script.largest_difference(grads, cut) < 1e-12


class RecordedStage:
    """Stands in for torch's pipeline stage: writes down what the schedule asks for."""

    def __init__(self, index, count):
        self.stage_index, self.num_stages = index, count
        self.is_first, self.is_last = index == 0, index == count - 1
        self.has_backward, self.group, self.group_size, self.group_rank = True, None, count, index
        self.plan = []

    def forward_one_chunk(self, m, *args, **kwargs):
        self.plan.append(("F", m))

    def backward_one_chunk(self, m, *args, **kwargs):
        self.plan.append(("B", m))

    def __getattr__(self, name):
        if name.startswith("get_"):
            return lambda m: []
        return lambda *args, **kwargs: None


@pytest.mark.parametrize("num_micro", [4, 8, 9])
@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
def test_schedules_in_the_order_of_torch(name, num_micro):
    kind = {"gpipe": schedules.ScheduleGPipe, "1f1b": schedules.Schedule1F1B}[name]
    for index in range(NUM_RANKS):
        stage = RecordedStage(index, NUM_RANKS)
        # The methods that run the schedule, on an object that has nothing else.
        runner = SimpleNamespace(
            _stage=stage,
            _num_stages=NUM_RANKS,
            _n_microbatches=num_micro,
            _check_inputs=lambda *args: ([()] * num_micro, [{}] * num_micro),
            _initialize_stage=lambda *args: None,
            _maybe_compute_loss=lambda *args: None,
            _maybe_get_loss=lambda *args: None,
            _update_losses=lambda *args: None,
            scale_grads=False,
        )
        kind._step_microbatches(runner)
        assert stage.plan == getattr(script, f"schedule_{name}")(index, NUM_RANKS, num_micro)
