"""What can go wrong, as one tree. Every error says what happened, why, and the next thing to do.

* LabError
  x TargetError            which target, and whether it answers
    + LabNotRunningError
    + NotSupportedError    this target lacks what was asked for
  x AzureError             a refusal by Azure Resource Manager, with its code
    + AzureNotFoundError
    + OperationInterruptedError   nobody waits any more; Azure goes on
  x KubeError              a refusal by a Kubernetes API, with its code and reason
    + NotFoundError
    + AlreadyExistsError
    + ConflictError
    + ForbiddenError       401 and 403
    + InvalidError         422
    + UnreachableError     no answer at all
  x KubeconfigError        a kubeconfig file that cannot be read, merged or written
  x ExecError              a command in a pod that ended with an error
  x WaitError              what was waited for did not come
  x StepError              a step of a plan failed; its cause is chained
  x MeasurementError       a benchmark could not measure
  x ResultsError           a results file that cannot be read

Errors of the libraries underneath (azure-core, urllib3, the Kubernetes client) never leave the modules
that call them: they are chained as causes, so that a notebook shows one vocabulary.
"""

from __future__ import annotations


class LabError(Exception):
    """Something went wrong that the person at the keyboard can understand and mend.

    Args:
        what: what happened, in one sentence.
        why: the reason, as far as it is known.
        fix: the next thing to do.
    """

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.fix = what, why, fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  Why: {self.why}")
        if self.fix:
            lines.append(f"  What to do: {self.fix}")
        return "\n".join(lines)


class TargetError(LabError):
    """The target is unknown, incomplete, or does not answer."""


class LabNotRunningError(TargetError):
    """The local lab's daemon is not running, and we may not start it."""


class NotSupportedError(TargetError):
    """The target does not have what was asked for."""


class AzureError(LabError):
    """Azure Resource Manager refused a request or an operation failed.

    Attributes:
        code: Azure's error code, such as "AgentPoolK8sVersionNotSupported".
        status: the HTTP status, or None.
    """

    def __init__(self, what: str, why: str = "", fix: str = "", *, code: str = "",
                 status: int | None = None) -> None:
        super().__init__(what, why, fix)
        self.code, self.status = code, status


class OperationInterruptedError(AzureError):
    """Somebody stopped waiting for an operation; Azure goes on with it."""


class AzureNotFoundError(AzureError):
    """The resource, or the group that should hold it, does not exist."""


class KubeError(LabError):
    """The Kubernetes API refused a request.

    Attributes:
        code: the HTTP status, 0 where there was no answer.
        reason: Kubernetes' reason, such as "NotFound".
    """

    def __init__(self, what: str, why: str = "", fix: str = "", *, code: int = 0, reason: str = "") -> None:
        super().__init__(what, why, fix)
        self.code, self.reason = code, reason


class NotFoundError(KubeError):
    """The object, or the kind, does not exist."""


class AlreadyExistsError(KubeError):
    """An object of that name exists."""


class ConflictError(KubeError):
    """Somebody else changed the object, or owns the field."""


class ForbiddenError(KubeError):
    """The credentials are missing, wrong, or not enough."""


class InvalidError(KubeError):
    """The object is not valid."""


class UnreachableError(KubeError):
    """The API server does not answer."""


class KubeconfigError(LabError):
    """A kubeconfig file cannot be read, merged or written."""


class ExecError(LabError):
    """A command in a pod ended with an error.

    Attributes:
        exit_code: the command's exit code.
        stdout: what it wrote to standard output.
        stderr: what it wrote to standard error.
    """

    def __init__(self, what: str, why: str = "", fix: str = "", *, exit_code: int = 1,
                 stdout: str = "", stderr: str = "") -> None:
        super().__init__(what, why, fix)
        self.exit_code, self.stdout, self.stderr = exit_code, stdout, stderr


class WaitError(LabError):
    """What was waited for did not come in time."""


class StepError(LabError):
    """A step of a plan failed.

    Attributes:
        step_id: the step.
        log: what it had said until then.
    """

    def __init__(self, what: str, why: str = "", fix: str = "", *, step_id: str = "",
                 log: tuple[str, ...] = ()) -> None:
        super().__init__(what, why, fix)
        self.step_id, self.log = step_id, log


class MeasurementError(LabError):
    """A benchmark could not measure what it should."""


class ResultsError(LabError):
    """A results file cannot be read."""
