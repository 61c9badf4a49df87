"""What the tests of several processes run under torchrun: `several.py WHAT FOLDER [changes]`."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))
from codes import Codes
from lascaux.train.contrastive import info_nce, sigmoid_pairs
from lascaux.train.loop import train
from lascaux.train.options import Running
from line import Deep


def contrasted(folder: Path) -> None:
    """The mean of the processes' gradients, beside that of one with everything."""
    torch.manual_seed(0)
    pictures, texts = torch.randn(8, 5), torch.randn(8, 5)
    ids = torch.tensor([[0], [1], [2], [1], [4], [5], [0], [7]])
    weight = torch.randn(5, 5)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    mine = slice(8 // ranks * rank, 8 // ranks * (rank + 1))
    found = {}
    for name, loss in (
        ("info_nce", lambda a, b, i: info_nce(a, b, torch.tensor(3.0), i)),
        ("sigmoid", lambda a, b, i: sigmoid_pairs(a, b, torch.tensor(3.0), torch.tensor(-2.0), i)),
    ):
        w = weight.clone().requires_grad_()
        value = loss((pictures @ w)[mine], texts[mine] @ w.T, ids[mine])
        value.backward()
        dist.all_reduce(w.grad)
        total = value.detach().clone()
        dist.all_reduce(total)
        found[name] = w.grad / ranks
        found[f"{name}_value"] = total / ranks
    if rank == 0:
        torch.save(found, folder / "several.pt")


def main() -> None:
    """Do what the words say."""
    what, folder = sys.argv[1], Path(sys.argv[2])
    told = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    if what == "contrasted":
        dist.init_process_group("gloo")
        contrasted(folder)
        dist.destroy_process_group()
        os._exit(0)
    recipe = (Codes if what == "codes" else Deep)(**told.get("recipe", {}))
    running = Running(threads=1, workers=0, **told.get("running", {}))
    finished = train(recipe, folder, running, stop_after=told.get("stop_after"))
    print("finished" if finished else "stopped", flush=True)
    os._exit(0)  # as the command does, since gloo's threads may abort at the end of Python


if __name__ == "__main__":
    main()
