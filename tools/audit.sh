#!/bin/bash
# Says what has become of the pinned packages since they were pinned: withdrawn from the index, known to be vulnerable,
# or outdated. Run it on a schedule. Ends with 1 when a package has been withdrawn or is vulnerable, and with 2 when that
# could not be found out. An outdated package is no failure.
#
#   tools/audit.sh UV
#
# OSV_URL is the service that knows vulnerabilities; https://api.osv.dev unless it is set.
set -u
uv=$1
status=0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

withdrawn() { # withdrawn FILE: print the packages of a requirements file that their authors have withdrawn
  "$uv" pip install --dry-run --no-deps --refresh --python-platform x86_64-manylinux_2_36 --target "$folder/none" \
    --requirement "$1" > /dev/null 2> "$folder/said" || { cat "$folder/said" >&2; return 2; }
  grep 'is yanked' "$folder/said" > "$folder/withdrawn" || return 0
  sed 's/^warning: /  /' "$folder/withdrawn"
  return 1
}

worse() { # worse STATUS: keep the larger exit status
  [ "$1" -le "$status" ] || status=$1
}

echo "Withdrawn packages (their authors say why):"
"$uv" export --quiet --frozen --all-packages --all-groups --all-extras --no-emit-workspace --no-hashes --no-annotate \
  --no-header --output-file "$folder/locked.txt" > /dev/null || worse 2
for file in "$folder/locked.txt" trainer-image/requirements-cuda.txt; do
  withdrawn "$file"; worse $?
done

osv=${OSV_URL:-https://api.osv.dev}
echo "Packages with known vulnerabilities (asked of $osv):"
"$uv" audit --quiet --frozen --service-url "$osv" > "$folder/vulnerable" 2> "$folder/said"
case $? in
  0) ;;
  1) cat "$folder/vulnerable"; worse 1 ;;
  *) cat "$folder/said" >&2; worse 2 ;;
esac

echo "Newer versions that the requirements allow (to take them: uv lock --upgrade, then make generate licenses test):"
"$uv" lock --upgrade --dry-run 2> "$folder/said" || { cat "$folder/said" >&2; worse 2; }
grep '^Update ' "$folder/said" | sed 's/^Update /  /'

case $status in
  0) echo "No package has been withdrawn, and no vulnerability is known." ;;
  1) echo "Replace the packages above that have been withdrawn or are vulnerable." ;;
  2) echo "Not everything could be found out; the messages above say why." ;;
esac
exit $status
