"""Upload a finished output directory to the hub."""

import shlex
from pathlib import Path

from huggingface_hub import HfApi

from mocose_hf.errors import SaveError, one_line

_EXCLUDED = (
    *("checkpoint-*", "*.bin", "*.pt", "*.pth"),
    *("search/*", "report.html", "run_record.json"),  # they hold training text
    *("training_args.json", "trainer_state.json"),  # they hold paths of this machine
)


def upload_output_dir(
    output_dir: str | Path,
    repo_id: str,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload MoCoSE model",
) -> None:
    """Upload a finished output directory to an existing hub repository, without checkpoints and private files.

    Args:
        output_dir: The directory.
        repo_id: The repository.
        token: The access token.
        revision: The branch, which is created if it does not exist; the main branch by default.
        commit_message: The message of the commit.

    Raises:
        SaveError: If the upload fails, with the command that repeats it; the directory is complete.
    """
    try:
        api = HfApi(token=token)
        if revision is not None and not revision.startswith("refs/pr"):
            api.create_branch(repo_id=repo_id, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            revision=revision,
            folder_path=str(output_dir),
            commit_message=commit_message,
            ignore_patterns=list(_EXCLUDED),
        )
    except Exception as error:  # of the network, of the hub and of tokens
        command = shlex.join(
            ["hf", "upload", repo_id, str(output_dir), *(f"--exclude={pattern}" for pattern in _EXCLUDED)]
            + ([] if revision is None else [f"--revision={revision}"])
        )
        raise SaveError(
            f"{output_dir}: is complete but cannot be uploaded ({one_line(error)}); upload it later: {command}"
        ) from error
