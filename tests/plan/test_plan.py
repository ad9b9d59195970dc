import pytest

from labkit.errors import LabError, NotFoundError, StepError
from labkit.plan import Evidence, Plan, Reporter, State, Step, check_step, revert, revert_plan, run, run_step


class Switch:
    """A thing that steps turn on and off."""

    def __init__(self) -> None:
        self.on: set[str] = set()
        self.calls: list[str] = []

    def step(self, name: str, **more) -> Step:
        def apply(log) -> None:
            log(f"turning {name} on")
            self.calls.append(f"+{name}")
            self.on.add(name)

        def undo(log) -> None:
            self.calls.append(f"-{name}")
            self.on.discard(name)

        settings = {"apply": apply, "revert": undo, "timeout": 60} | more
        return Step(id=name, title=f"Turn {name} on", why="light", without="dark", command=f"switch {name}",
                    revert_command=f"switch --off {name}",
                    verify=lambda: Evidence(name in self.on, f"on: {sorted(self.on)}"), **settings)


def test_runs_in_order_and_does_nothing_twice():
    switch = Switch()
    plan = Plan("p", "Lights", (switch.step("a"), switch.step("b")))
    first, second = run(plan), run(plan)
    assert first.ok
    assert [s.state for s in first.steps] == [State.DONE, State.DONE]
    assert first["a"].log == ("turning a on",)
    assert second.ok
    assert [s.state for s in second.steps] == [State.ALREADY_DONE] * 2
    assert switch.calls == ["+a", "+b"]


def test_reverts_last_step_first():
    switch = Switch()
    plan = Plan("p", "Lights", (switch.step("a"), switch.step("b")))
    run(plan)
    assert [s.state for s in revert(plan).steps] == [State.REVERTED] * 2
    assert switch.calls[-2:] == ["-b", "-a"]
    assert not switch.on


def test_way_back_is_a_plan_that_can_be_checked():
    switch = Switch()
    plan = Plan("p", "Lights", (switch.step("a"), switch.step("b", revert=None)))
    run(plan)
    back = revert_plan(plan)
    assert [s.command for s in back.steps] == ["switch --off a"]
    assert not check_step(back["undo-a"])
    assert run(back).ok
    assert check_step(back["undo-a"])


def test_failure_stops_and_carries_cause_hint_and_log():
    switch = Switch()

    def refuse(log) -> None:
        log("asking")
        raise NotFoundError("no such lamp", "it was never bought", "buy one.", code=404)

    plan = Plan("p", "Lights", (switch.step("a", apply=refuse, hint="Or use a candle."), switch.step("b")))
    result = run(plan)
    assert not result.ok
    assert len(result.steps) == 1
    assert switch.calls == []
    error = result["a"].error
    assert isinstance(error, StepError)
    assert isinstance(error.__cause__, NotFoundError)
    assert error.log == ("asking",)
    assert str(error) == ("Turn a on: no such lamp\n  Why: it was never bought\n"
                          "  What to do: buy one. Or use a candle.")
    with pytest.raises(StepError) as raised:
        result.raise_for_failure()
    assert raised.value is error


def test_effect_that_never_shows_is_a_failure_that_quotes_the_check():
    switch = Switch()
    result = run_step(switch.step("a", apply=lambda log: None, timeout=0.1))
    assert result.state is State.FAILED
    assert "on: []" in result.error.why


def test_verify_may_fail_for_a_while_after_apply():
    answers = iter([Evidence(False, "off"), LabError("busy"), Evidence(False, "warming"),
                    Evidence(True, "on")])

    def verify() -> Evidence:
        answer = next(answers)
        if isinstance(answer, LabError):
            raise answer
        return answer

    step = Step("a", "Turn on", "", "", "", apply=lambda log: None, verify=verify, timeout=60)
    result = run_step(step)
    assert result.state is State.DONE
    assert result.log == ("waiting: busy", "waiting: warming")


def test_reporter_hears_everything_in_order():
    heard = []

    class Ear(Reporter):
        def started(self, step):
            heard.append(("started", step.id))

        def log(self, step, line):
            heard.append(("log", line))

        def finished(self, step, result):
            heard.append(("finished", result.state))

    run_step(Switch().step("a"), Ear())
    assert heard == [("started", "a"), ("log", "turning a on"), ("finished", State.DONE)]
