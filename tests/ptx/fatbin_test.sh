#!/bin/sh
# tests/ptx/fatbin_test.sh [test ...] - which PTX of a program the machine runs: several -gencode, compression, several
# translation units, nothing that runs. Needs build/libfa_ptx.a. The last line is "N passed, N failed, N skipped".

NVCC=${NVCC:-nvcc} CXX=${CXX:-c++}
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
passed=0 failed=0

# Two files with a kernel and a static variable each, of the same names; the program prints what the kernels saw.
cat > "$dir/one.cu" << 'EOF'
#include <cstdio>
static __device__ int where = WHERE;
static __global__ void kernel(int *out) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    out[0] = -__CUDA_ARCH__ / 10;
#elif defined(__CUDA_ARCH__)
    out[0] = __CUDA_ARCH__ / 10;
#endif
    out[1] = where;
}
void NAME() {
    int *out, got[2];
    cudaMalloc(&out, sizeof got);
    kernel<<<1, 1>>>(out);
    cudaError_t e = cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost);
    if (e) printf("%s\n", cudaGetErrorName(e));
    else printf("sm_%d%s unit %d\n", got[0] < 0 ? -got[0] : got[0], got[0] < 0 ? "a" : "", got[1]);
}
EOF
sed 's/WHERE/1/; s/NAME/one/' "$dir/one.cu" > "$dir/a.cu"
sed 's/WHERE/2/; s/NAME/two/' "$dir/one.cu" > "$dir/b.cu"
echo 'void one(); void two(); int main() { one(); two(); }' >> "$dir/b.cu"

build() { # nvcc flags
    $NVCC -O3 -cudart none "$@" -o "$dir/program" "$dir/a.cu" "$dir/b.cu" build/libfa_ptx.a -lm -lpthread 2> "$dir/log" ||
        { cat "$dir/log"; false; }
}
expect() { # device, a part of what the program says, name of the test
    output=$(FA_PTX_DEVICE=$1 "$dir/program" 2>&1)
    case $output in
    *"$2"*) echo "ok $3, $1" && passed=$((passed + 1)) ;;
    *) printf 'not ok %s, %s: "%s" is not in\n%s\n' "$3" "$1" "$2" "$output" && failed=$((failed + 1)) ;;
    esac
}
both() { printf 'sm_%s unit 1\nsm_%s unit 2' "$1" "$1"; } # lines of both units

several='-gencode arch=compute_80,code=compute_80 -gencode arch=compute_86,code=[compute_86,sm_86]
         -gencode arch=compute_90a,code=[compute_90a,sm_90a] -gencode arch=compute_100f,code=compute_100f'
# shellcheck disable=SC2086
for compression in -no-compress --compress-mode=speed; do
    build $compression $several || exit 1
    expect sm_90a "$(both 90a)" "the highest architecture, $compression"
    expect sm_89 "$(both 86)" "the highest that is not above the device, $compression"
    expect sm_86 "$(both 86)" "the device's own, $compression"
    expect sm_80 "$(both 80)" "the lowest, $compression"
done
build -no-compress -gencode arch=compute_90,code=compute_90 -gencode arch=compute_90a,code=compute_90a || exit 1
expect sm_90a "$(both 90a)" 'sm_90a before sm_90'
build -no-compress -gencode arch=compute_90a,code=compute_90a || exit 1
expect sm_89 'compute_90a. Compile with -gencode arch=compute_89,code=compute_89' 'PTX for later devices only'
build -no-compress -gencode arch=compute_90a,code=sm_90a || exit 1
expect sm_90a 'the program has sm_90a. Compile with -gencode arch=compute_90a,code=compute_90a' 'no PTX'
build --compress-mode=size -gencode arch=compute_80,code=compute_80 || exit 1
expect sm_90a 'compile with -no-compress' Zstandard
if $NVCC -O3 -rdc=true -gencode 'arch=compute_80,code=[compute_80,sm_80]' -c "$dir/a.cu" -o "$dir/a.o" &&
    $NVCC -O3 -rdc=true -gencode 'arch=compute_80,code=[compute_80,sm_80]' -c "$dir/b.cu" -o "$dir/b.o" &&
    $NVCC -dlink -gencode arch=compute_80,code=sm_80 "$dir/a.o" "$dir/b.o" -o "$dir/link.o" &&
    $CXX "$dir/a.o" "$dir/b.o" "$dir/link.o" build/libfa_ptx.a -lm -lpthread -o "$dir/program"; then
    expect sm_90a 'compile without -rdc' 'relocatable device code'
else
    echo 'not ok relocatable device code: cannot be built' && failed=$((failed + 1))
fi

echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
