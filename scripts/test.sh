#!/bin/bash
# Sets up the machine and runs all tests. The last line sums up every test binary: `N passed, M failed`.
# Arguments go to `cargo test` (scripts/test.sh --test host).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh
scripts/setup.sh

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --release --locked --no-fail-fast "$@" </dev/null 2>&1 | tee "$log" || status=$?

# "test result: ok. 12 passed; 0 failed; ...", one a binary.
read -r passed failed < <(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed;.*/\1 \2/p' "$log" |
  awk '{ passed += $1; failed += $2 } END { print passed + 0, failed + 0 }')
[ "$passed" -gt 0 ] || { echo "error: no test ran" >&2; status=1; }
[ "$failed" -eq 0 ] || status=1
[ "$status" -eq 0 ] || echo "error: the tests failed (see above)" >&2
echo "$passed passed, $failed failed"
exit "$status"
