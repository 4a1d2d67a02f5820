"""The jobs in docs/deploy, as far as they can be tested without a cluster."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from jaxcnn.cli.app import app

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "docs" / "deploy"
KUBERNETES = ("1.27", "1.32", "1.37")


def manifests():
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_the_manifests(version):
    for manifest in manifests():
        kubernetes_validate.validate(manifest, version, strict=True)
    broken = manifests()[-1]
    broken["spec"]["completionmode"] = broken["spec"].pop("completionMode")
    with pytest.raises(kubernetes_validate.ValidationError, match="'completionmode' was unexpected"):
        kubernetes_validate.validate(broken, version, strict=True)


def test_the_manifests_fit_each_other():
    service, claim, job = manifests()
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (script,) = pod["containers"][0]["args"]
    assert f"--coordinator {name}-0.{pod['subdomain']}:" in script
    assert f"--processes {spec['completions']} " in script
    assert spec["parallelism"] == spec["completions"]


def of_slurm(run):
    """The script of the job, and the options with which its first process is begun."""
    return (DEPLOY / "slurm.sbatch").read_text(), {"SLURM_SUBMIT_DIR": str(run.parents[1]), "SLURM_JOB_ID": run.name}


def of_kubernetes(run):
    (script,) = manifests()[-1]["spec"]["template"]["spec"]["containers"][0]["args"]
    return script.replace("/volume/runs/cifar", str(run)), {"JOB_COMPLETION_INDEX": "3"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("job", [of_slurm, of_kubernetes])
def test_a_job_begins_its_run_and_goes_on_with_it(job, tmp_path):
    """With stand-ins for srun and jaxcnn, which tell what they were called with."""
    run = tmp_path / "runs" / "7"
    script, variables = job(run)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for name in ("srun", "jaxcnn"):
        (tmp_path / name).write_text('#!/bin/sh\necho "$@"\n')
        (tmp_path / name).chmod(0o755)
    environment = variables | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def called():
        ran = subprocess.run(["bash", "-euc", script], env=environment, text=True, check=True, capture_output=True)
        return re.sub(r"^.*(?=train )", "", ran.stdout)

    begun = called()
    assert begun.startswith(f"train --out {run} --data ")
    run.mkdir(parents=True)
    assert called() == begun
    (run / "model.safetensors").touch()
    assert called().startswith(f"train --resume {run} --coordinator ")
    if job is of_kubernetes:
        assert called().endswith("--processes 4 --process 3\n")


def test_the_options_of_the_document_and_of_the_jobs_are_those_of_train():
    known = {option for param in get_command(app).commands["train"].params for option in param.opts}
    texts = [path.read_text() for path in (ROOT / "docs/scale.md", DEPLOY / "slurm.sbatch", DEPLOY / "kubernetes.yaml")]
    lines = [line for text in texts for line in text.splitlines() if re.search(r"jaxcnn\"? train|what=", line)]
    assert len(lines) > 8
    for line in lines:
        named = re.findall(r"(?<=[ (\"])--[a-z-]+", re.sub(r".*srun.*jaxcnn\"|.*--command=", "", line))
        assert set(named) <= known, line
