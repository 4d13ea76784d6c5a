#!/bin/sh
# tests/ptx/user_test.sh - ordinary CUDA programs run unchanged: linked with the machine, with -cudart shared and the
# machine as libcudart.so.13 or preloaded, with a default stream per thread, on every device and in every schedule. The
# last line is "N passed, N failed, N skipped".
cd "$(dirname "$0")/../.." || exit 2
NVCC=${NVCC:-nvcc}
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
passed=0 failed=0
make -s build/libfa_ptx.a build/libfa_ptx.so > "$dir/log" 2>&1 || { cat "$dir/log"; exit 2; }

build() { # name, source, nvcc options
    name=$1 source=$2
    shift 2
    $NVCC -O3 -lineinfo -no-compress -o "$dir/$name" "$source" "$@" > "$dir/log" 2>&1 || { cat "$dir/log"; exit 2; }
}
expect() { # exit status, a part of the output, environment and command
    want=$1 text=$2
    shift 2
    output=$(env "$@" 2>&1)
    got=$?
    case $output in *"$text"*) ;; *) got="$got without '$text'" ;; esac
    if [ "$got" = "$want" ]; then passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "not ok: $*: status $got, wanted $want" && echo "$output"
    fi
}

every='-gencode arch=compute_80,code=compute_80 -gencode arch=compute_90a,code=compute_90a'
library=$PWD/build/ptx/lib
for program in vector_add reduction; do
    source=tests/ptx/user_$program.cu
    # shellcheck disable=SC2086
    {
        build linked $source $every -cudart none build/libfa_ptx.a -lm -lpthread
        build shared $source $every -cudart shared
        build streams $source $every -cudart shared --default-stream per-thread
    }
    for schedule in order lazy 1 2 3; do
        for device in sm_80 sm_86 sm_89 sm_90a; do
            expect 0 passed FA_PTX_SCHEDULE=$schedule FA_PTX_DEVICE=$device "$dir/linked"
        done
    done
    for name in shared streams; do
        expect 0 passed LD_LIBRARY_PATH="$library" "$dir/$name"
        expect 0 passed LD_PRELOAD="$PWD/build/libfa_ptx.so" "$dir/$name"
        expect 0 passed FA_PTX_SCHEDULE=1 FA_PTX_DEVICE=sm_80 LD_LIBRARY_PATH="$library" "$dir/$name"
    done
done

# and one with a bug: the last block writes behind the end
sed 's/if (i < n) c/c/' tests/ptx/user_vector_add.cu > "$dir/bug.cu"
build bug "$dir/bug.cu" -arch=sm_90a -cudart shared
expect 1 'unspecified launch failure' LD_LIBRARY_PATH="$library" "$dir/bug"
expect 1 'bug.cu:18' LD_LIBRARY_PATH="$library" "$dir/bug"
sed 's/CHECK(\(.*\));/\1;/; s/return wrong.*/return 0;/' "$dir/bug.cu" > "$dir/unchecked.cu"
build unchecked "$dir/unchecked.cu" -arch=sm_90a -cudart shared
expect 86 'PTX machine: ' LD_LIBRARY_PATH="$library" "$dir/unchecked"
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
