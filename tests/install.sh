#!/usr/bin/env bash
# Installs what some tests run against and pip cannot give to the project's own environment: SLURM and munge (tests/test_slurm.py),
# chromium (tests of the page), .venv-sky with SkyPilot and Kubernetes' schemas (tests/test_cloud.py; 700 MB, so apart), and
# .venv-brainscore with Brain-Score and the numpy that it needs (tests/test_benchmark_brainscore.py; 700 MB).
# Quick where all is there. What cannot be installed is said, and its tests skip.
set -u
cd "$(dirname "$0")/.."

missing() { echo "tests/install.sh: $1; the tests that need it will skip" >&2; }

install_packages() {
  local wanted=()
  command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v srun >/dev/null || wanted+=(slurm-wlm)
  command -v munged >/dev/null || wanted+=(munge)
  command -v chromium >/dev/null || wanted+=(chromium)
  [ ${#wanted[@]} -eq 0 ] && return
  if ! command -v apt-get >/dev/null; then missing "no apt-get here to install ${wanted[*]}"; return; fi
  if [ "$(id -u)" -ne 0 ]; then missing "installing ${wanted[*]} needs root"; return; fi
  apt-get update -qq || true
  for package in "${wanted[@]}"; do
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null || missing "apt-get could not install $package"
  done
}

install_sky() {
  local python=.venv-sky/bin/python
  [ -e .venv-sky/.ready ] && return
  { [ -x $python ] || ${PYTHON:-python3} -m venv .venv-sky; } &&
    $python -m pip install --quiet --disable-pip-version-check 'skypilot[kubernetes]>=0.14,<0.15' 'kubernetes-validate>=1.33' &&
    touch .venv-sky/.ready || missing "SkyPilot and kubernetes-validate could not be installed into .venv-sky"
}

# Brain-Score declares packages that scoring does not need (torch, cv2); pip's complaint that they are not there is not shown.
install_brainscore() {
  local python=.venv-brainscore/bin/python
  [ -e .venv-brainscore/.ready ] && return
  { [ -x $python ] || ${PYTHON:-python3} -m venv .venv-brainscore; } &&
    $python -m pip install -qqq --disable-pip-version-check --no-deps brainscore-core==2.5.0 brainscore-vision==2.4.2 &&
    $python -m pip install -qqq --disable-pip-version-check --editable benchmarks/brainscore_bridge &&
    touch .venv-brainscore/.ready || missing "Brain-Score could not be installed into .venv-brainscore"
}

install_packages
install_sky
install_brainscore
exit 0
