#!/bin/sh
# Unpacks Debian's or Ubuntu's package of Prometheus into a folder: fetch.sh FOLDER. Installs nothing, starts
# nothing and needs no root. Ends with status 0 when that cannot be done, and says why: tests are skipped then.
set -u
folder=$1

cannot() {
  echo "Prometheus is not here ($1); tests that need it are skipped."
  exit 0
}

command -v prometheus >/dev/null && command -v promtool >/dev/null && exit 0
[ -x "$folder/usr/bin/prometheus" ] && [ -x "$folder/usr/bin/promtool" ] && exit 0
{ command -v apt-get && command -v dpkg; } >/dev/null || cannot "install prometheus and promtool, or use apt"

echo "Fetching Prometheus into $folder ..."
mkdir -p "$folder/apt/lists/partial" "$folder/apt/archives/partial" || cannot "$folder cannot be written"
cd "$folder/apt" || cannot "$folder cannot be entered"
# Files in a folder of ours are written by the user that runs this, root or not.
get="apt-get -qq -o APT::Sandbox::User= -o Acquire::Retries=2 -o Acquire::http::Timeout=20"
if ! $get download prometheus >log 2>&1; then
  # The system's lists are missing or old. Lists of our own leave them as they are.
  get="$get -o Dir::State::Lists=$PWD/lists -o Dir::Cache=$PWD"
  { $get update && $get download prometheus; } >>log 2>&1 || cannot "apt-get: $(tail -n 1 log)"
fi
dpkg -x prometheus_*.deb .. || cannot "the package cannot be unpacked"
cd .. && rm -rf apt
