#!/usr/bin/env bash
# AddressSanitizer over the tests of the engine's unsafe code: its operations, on every instruction set that this processor has.
#
#     tests/sanitize.sh [FILTER]    (by default kernels::)
#
# It finds reads and writes beyond an allocation, after it was freed and after a return, in Rust, in the intrinsics of the vector
# instructions and in what they inline; also leaks. The code is optimized as in a release, with overflow checks and with the checks of
# the standard library's unsafe functions. It does not see inside of the AMX assembly and of the compiled CUDA kernels, and it finds no
# data races: that no two tasks write to one place is argued at each `unsafe`, and tested by results that are the same to the bit on
# any number of threads.
set -euo pipefail
cd "$(dirname "$0")/.."
# The sanitizer is part of the stable compiler, but its flag is not stable. A target makes that build scripts go without it.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Cforce-frame-pointers=yes"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/sanitize
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_stack_use_after_return=1:strict_string_checks=1}
target=$(rustc -vV | sed -n 's/^host: //p')
# Everything but the engine is only its oracle here, and builds sooner with less optimization.
cargo test --package hone-engine --lib --locked --target "$target" --config 'profile.dev.package."*".opt-level=1' -- "${1:-kernels::}"
