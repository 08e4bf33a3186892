"""Three rounds with people over HTTP: eight simulated labelers rank in `wuya serve` what `wuya loop --wait` samples.

    python experiments/rounds.py run runs/demo-seed1 --out runs/rounds/seed1       # one seed, ten minutes on one core
    python experiments/rounds.py spammer runs/demo-seed1 --out runs/rounds/seed1   # is the spammer found, and dear?
    python experiments/rounds.py report runs/rounds/seed1 runs/rounds/seed2 --out runs/rounds

`run` takes a finished demo's SFT model, makes eight labelers (one ranks at random) with five held-out ones, starts the
service and the loop as processes of their own, and ranks over HTTP until the loop ends. Then held-out labelers compare
every round's policy with the SFT model on the same final prompts (votes.json). The loop's gate uses tuning prompts, so
nothing is chosen by what is reported. The same command goes on where it was cut off. All labelers are simulated.
"""

import argparse
import json
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import IO, Any

import httpx2
from simulated_labelers import Desk, enter, post, project_named, rank_all

from wuya.checkpoints.checkpoint import load_checkpoint
from wuya.data.chitchat import exchanges, load_chats, split_chats
from wuya.data.formats import read_prompts, write_prompts
from wuya.demo.people import PEOPLE_SEED, SHARED_TASTE
from wuya.evals.answers import chat_answers
from wuya.evals.bootstrap import mean_interval
from wuya.evals.likelihood import kl_divergence
from wuya.evals.rounds import rounds_trend
from wuya.feedback.reading import Selection
from wuya.feedback.simulated import Labelers, calibrate_noise, make_labelers
from wuya.feedback.store import FeedbackStore
from wuya.files import make_folder, to_json, write_atomic
from wuya.recipes import agreement, reward_model
from wuya.recipes.agreement import AgreementConfig
from wuya.recipes.reward_model import RewardModelConfig
from wuya.recipes.sample_completions import read_completions

PROJECT, SPAMMER = "loop", "labeler_3"
NUM_LABELERS, NUM_JUDGES, NUM_GATE_PROMPTS, MAX_TOKENS = 8, 5, 200, 32
ADMIN = "lead@simulated.invalid"
REWARD = {"batch_size": 8, "learning_rate": 7e-4, "warmup_steps": 5}
PPO = {
    "max_prompt_tokens": 96, "learning_rate": 5e-4, "value_learning_rate": 5e-4, "warmup_updates": 1,
    "value_warmup_updates": 1, "kl_coef": 0.3, "ema_decay": 0.0, "final_kl_prompts": 0, "save_every": 0,
}  # fmt: skip


def main() -> None:
    """One of the three verbs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["run", "spammer", "report"])
    parser.add_argument("folders", nargs="+", type=Path, help="a finished demo; for report: the seeds' --out")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3, help="a larger number later goes on from the last")
    parser.add_argument("--prompts_per_round", type=int, default=150)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--overlap", type=int, default=2)
    parser.add_argument("--updates", type=int, default=4, help="of PPO in a round")
    parser.add_argument("--episodes", type=int, default=256, help="of an update")
    parser.add_argument("--num_prompts", type=int, default=2_000, help="final prompts that every round is judged on")
    parser.add_argument("--reward_seeds", type=int, default=3)
    arguments = parser.parse_args()
    out = make_folder(arguments.out)
    if arguments.verb == "report":
        write_report(arguments.folders, out)
        return
    demo = arguments.folders[0]
    if arguments.verb == "spammer":
        look_for_spammers(demo, out, arguments.reward_seeds)
        return
    prepare(demo, out, arguments.num_prompts)
    with serving(out) as (url, admin):
        run_loop(demo, out, url, admin, arguments)
    judge_rounds(demo, out)


# -- run ---------------------------------------------------------------------------------------------------------------


def prepare(demo: Path, out: Path, num_prompts: int) -> None:
    """labelers.json (eight people, one of whom does not read), prompts.jsonl, gate.jsonl and final.jsonl."""
    if (out / "final.jsonl").exists():
        return
    normaliser = Labelers.load(demo / "data" / "labelers.json").taste.normaliser
    people = make_labelers(
        normaliser, num_training=NUM_LABELERS, num_held_out=NUM_JUDGES, weights=SHARED_TASTE, own_taste_std=0.15,
        extra_weight=0.2, seed=PEOPLE_SEED,
    )  # fmt: skip
    answers = list(read_completions(demo / "samples" / "calibration" / "completions.jsonl"))
    calibrate_noise(people, answers).with_spammers([SPAMMER]).save(out / "labelers.json")
    training = (read_prompts(demo / "data" / f"{use}.jsonl") for use in ("reward", "ppo"))
    write_prompts(out / "prompts.jsonl", chain.from_iterable(training))
    uses = exchanges(split_chats(load_chats()))
    write_prompts(out / "gate.jsonl", [row.prompt for row in uses["tuning"][:NUM_GATE_PROMPTS]])
    write_prompts(out / "final.jsonl", [row.prompt for row in uses["final"][:num_prompts]])


@contextmanager
def serving(out: Path) -> Iterator[tuple[str, httpx2.Client]]:
    """`wuya serve` with accounts on a free port; its URL and the admin's session."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = ["serve", "fake", "--engine", "fake", "--accounts", "--workspace", str(out), "--port", str(port)]
    url, log = f"http://127.0.0.1:{port}", out / "serve.log"
    with open(log, "w", encoding="utf-8") as file, httpx2.Client(base_url=url, timeout=60) as admin:
        server = start(command, file)
        try:
            link = setup_link(server, log)
            password = out / "admin_password"  # of a service on this machine alone, with simulated people
            if link:
                password.write_text(secrets.token_urlsafe(24), encoding="utf-8")
                person = {
                    "email": ADMIN,
                    "name": "lead",
                    "sign_up": "invite",
                    "password": password.read_text(encoding="utf-8"),
                }
                post(admin, "/api/auth/setup", {"token": link, **person})
            else:
                post(admin, "/api/auth/login", {"email": ADMIN, "password": password.read_text(encoding="utf-8")})
            yield url, admin
        finally:
            server.terminate()
            server.wait(30)


def start(arguments: Sequence[str], log: IO[str]) -> subprocess.Popen[bytes]:
    """A verb of wuya as a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "wuya", *arguments], stdout=log, stderr=log)


def setup_link(server: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until the service listens; the secret of its setup link, "" if it has been set up before."""
    while server.poll() is None:
        text = log.read_text(encoding="utf-8")
        if "wuya serves at" in text:
            time.sleep(0.5)  # the link is the next line
            return log.read_text(encoding="utf-8").partition("/setup#")[2].split("\n")[0].strip()
        time.sleep(0.2)
    raise SystemExit(f"error: the service did not start; see {log}")


def run_loop(demo: Path, out: Path, url: str, admin: httpx2.Client, arguments: argparse.Namespace) -> None:
    """The loop waits for people; they rank whatever it queues until it ends."""
    identity = json.loads((demo / "demo.json").read_text(encoding="utf-8"))
    command = {
        "sft": demo / "sft", "prompts": out / "prompts.jsonl", "demonstrations": demo / "data" / "sft.jsonl",
        "evaluation_prompts": out / "gate.jsonl", "judges": out / "labelers.json", "database": out / "wuya.db",
        "out": out / "loop", "rounds": arguments.rounds, "prompts_per_round": arguments.prompts_per_round,
        "k": arguments.k, "overlap": arguments.overlap, "start_from": "last", "wait": "true", "gate": 0.45,
        "max_tokens": MAX_TOKENS, "seed": 100 * identity["seed"], "dtype": "float32",
        "reward_model": json.dumps(REWARD),
    }  # fmt: skip
    ppo = {"num_updates": arguments.updates, "rollout_batch_size": arguments.episodes}
    command["ppo"] = json.dumps({**PPO, **ppo, "minibatch_size": max(8, arguments.episodes // 4)})
    flags = chain.from_iterable((f"--{name}", str(value)) for name, value in command.items())
    people = Labelers.load(out / "labelers.json").training
    desks: list[Desk] = []
    with open(out / "loop.log", "a", encoding="utf-8") as log:
        loop = start(["loop", *flags], log)
        try:
            while loop.poll() is None:
                if not desks and has_project(admin):
                    desks = [Desk(enter(url, admin, labeler), labeler) for labeler in people]
                if desks:
                    rank_all(desks, project_named(admin, PROJECT))
                time.sleep(1)
        finally:
            loop.terminate()
    if loop.wait():
        raise SystemExit(f"error: the loop failed; see {out / 'loop.log'}")


def has_project(admin: httpx2.Client) -> bool:
    """The loop has queued its first answers."""
    return any(row["name"] == PROJECT for row in admin.get("/api/label/projects").json()["items"])


def judge_rounds(demo: Path, out: Path) -> None:
    """votes.json: of every round's policy and final prompt, the share of held-out labelers who prefer it to SFT."""
    rounds = json.loads((out / "loop" / "rounds.json").read_text(encoding="utf-8"))
    path = out / "votes.json"
    if path.exists() and len(json.loads(path.read_text(encoding="utf-8"))["votes"]) == len(rounds):
        return
    seed = json.loads((demo / "demo.json").read_text(encoding="utf-8"))["seed"]
    prompts = list(read_prompts(out / "final.jsonl"))
    judges = Labelers.load(out / "labelers.json").held_out
    reference, tokenizer = load_checkpoint(demo / "sft")
    baseline = chat_answers("sft", reference.eval(), tokenizer, prompts, max_tokens=MAX_TOKENS, seed=seed)
    votes, kls = [], []
    for row in rounds:
        policy, _ = load_checkpoint(Path(row["policy"]))
        answers = chat_answers("policy", policy.eval(), tokenizer, prompts, max_tokens=MAX_TOKENS, seed=seed)
        pairs = list(zip(prompts, answers.candidates, baseline.candidates, strict=True))
        votes.append([mean(judge.prefer(*pair) for judge in judges) for pair in pairs])
        completions = [candidate.token_ids for candidate in answers.candidates]
        kls.append(kl_divergence(policy, reference, answers.prompt_ids, completions).per_response.to_dict())
    write_atomic(path, to_json({"seed": seed, "votes": votes, "kl": kls}) + "\n")
    print([f"{mean_interval(row)}" for row in votes])


# -- spammer -----------------------------------------------------------------------------------------------------------


def look_for_spammers(demo: Path, out: Path, seeds: int) -> None:
    """spammer.json: whom `wuya agreement` suspects, and the reward model's accuracy with and without them."""
    report = agreement.run(AgreementConfig(database=str(out / "wuya.db"), project=PROJECT, out=out / "agreement"))
    suspects = tuple(row.labeler for row in report.labelers if row.suspect)
    heldout = next((demo / "rankings" / "held_out").glob("*.jsonl"))
    result: dict[str, Any] = {"suspects": suspects, "pairwise": report.pairwise.mean, "accuracy": {}}
    result["skill"] = {row.labeler: [row.skill, row.skill_low, row.skill_high] for row in report.labelers}
    with FeedbackStore(str(out / "wuya.db")) as store:
        for name, left_out in (("with", ()), ("without", suspects)):
            selection = Selection(project=PROJECT, without_labelers=left_out)
            rankings = store.export_snapshot("rm_rankings", out / "spammer", selection=selection).path
            runs = [reward_accuracy(demo, rankings, heldout, out / "spammer" / f"{name}_{n}", n) for n in range(seeds)]
            result["accuracy"][name] = runs
    write_atomic(out / "spammer.json", to_json(result, indent=1) + "\n")
    print(to_json(result, indent=1))


def reward_accuracy(demo: Path, rankings: Path, heldout: Path, out: Path, seed: int) -> float:
    """Held-out accuracy of a reward model on these rankings; trained unless it is there."""
    if not (out / "report.json").exists():
        reward_model.run(
            RewardModelConfig(
                model=demo / "sft",
                rankings=rankings,
                heldout_rankings=(heldout,),
                out=out,
                resume=out.exists(),
                batch_size=8,
                learning_rate=7e-4,
                warmup_steps=5,
                seed=seed,
                dtype="float32",
            )
        )  # fmt: skip
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return float(next(iter(report.values()))["accuracy"]["mean"])


# -- report ------------------------------------------------------------------------------------------------------------


def write_report(folders: Sequence[Path], out: Path) -> None:
    """rounds.json and rounds.md over seeds."""
    runs = [json.loads((folder / "votes.json").read_text(encoding="utf-8")) for folder in folders]
    trend = rounds_trend([run["votes"] for run in runs])
    lines = [
        f"{len(runs)} seed(s), {len(runs[0]['votes'][0])} final prompts, {NUM_JUDGES} held-out *simulated* labelers;",
        "[95 % interval, prompts resampled with all their votes].",
        "",
        "| round | preferred to SFT | step from the round before | KL, nats an answer |",
        "| --- | --- | --- | --- |",
    ]
    for number, rate in enumerate(trend.rates):
        step = str(trend.steps[number - 1]) if number else ""
        kl = ", ".join(f"{run['kl'][number]['mean']:.2f}" for run in runs)
        lines.append(f"| {number + 1} | {rate} | {step} | {kl} |")
    lines += ["", f"Slope {trend.slope} a round; by seed {', '.join(map(str, trend.slope_by_seed))}."]
    lines.append(f"Rises: {'yes' if trend.rises else 'no'}. Rounds that fall: {list(trend.falls) or 'none'}.")
    for folder in folders:
        if (folder / "spammer.json").exists():
            found = json.loads((folder / "spammer.json").read_text(encoding="utf-8"))
            with_, without = (found["accuracy"][name] for name in ("with", "without"))
            lines.append(
                f"{folder.name}: suspects {found['suspects']}; reward model {mean(with_):.3f} with, "
                f"{mean(without):.3f} without ({len(with_)} seeds: {with_}, {without})."
            )
    write_atomic(out / "rounds.json", to_json(trend.to_dict(), indent=1) + "\n")
    write_atomic(out / "rounds.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
