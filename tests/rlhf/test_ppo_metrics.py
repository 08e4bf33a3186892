"""The alarms say what is wrong, and are silent when nothing is."""

from wuya.rlhf.ppo_metrics import Alarms

GOOD = {
    "objective/kl": 1.0, "objective/length": 15.0, "objective/eos_share": 0.9, "objective/identical_share": 0.01,
    "policy/clipfrac_avg": 0.05,
}  # fmt: skip


def alarms_after(*changes: dict[str, float]) -> list[str]:
    alarms = Alarms()
    alarms.check(GOOD)
    found: list[str] = []
    for change in changes:
        found = alarms.check({**GOOD, **change})
    return found


def test_a_healthy_run_is_silent() -> None:
    assert alarms_after({}, {"objective/kl": -0.1}, {}) == []


def test_each_symptom_has_its_words() -> None:
    assert "disagree" in alarms_after(*[{"objective/kl": -0.1}] * 5)[0]
    assert alarms_after(*[{"objective/kl": -0.1}] * 4, {}) == []
    assert "clipped" in alarms_after({"policy/clipfrac_avg": 0.4})[0]
    assert "grown" in alarms_after({"objective/length": 40})[0]
    assert "shrunk" in alarms_after({"objective/length": 5})[0]
    assert "mode collapse" in alarms_after({"objective/identical_share": 0.5})[0]
    assert "end by themselves" in alarms_after({"objective/eos_share": 0.5})[0]


def test_the_alarms_survive_a_resume() -> None:
    alarms, resumed = Alarms(), Alarms()
    alarms.check(GOOD)
    resumed.load_state_dict(alarms.state_dict())
    assert resumed.check({**GOOD, "objective/length": 40}) == alarms.check({**GOOD, "objective/length": 40})
