/* test_layout.c - the index maps of flashattn_cuda.cuh, enumerated on the CPU: tiles in shared memory, fragments. */
#include "fa_test.h"

#define FAI_MAPS_ONLY
#include "flashattn_cuda.cuh"

/* Every chunk of a tile of 64 rows has a place of its own, and none is outside. */
FA_TEST(swizzled_tiles_are_permutations) {
    for (int dim = 16; dim <= 256; dim += 16) {
        static unsigned char taken[64 * 256 * 2 / 16];
        memset(taken, 0, sizeof taken);
        for (int row = 0; row < 64; row++)
            for (int chunk = 0; chunk < dim / 8; chunk++) {
                const int at = FAI_AT(dim, row, chunk);
                FA_REQUIRE(at % 16 == 0 && at >= row * dim * 2 && at < (row + 1) * dim * 2);
                FA_EXPECT_MSG(!taken[at / 16]++, "dim %d, row %d, chunk %d", dim, row, chunk);
            }
    }
}

/* 8 rows of a chunk column lie in 8 different groups of 4 banks: one wavefront of ldmatrix. */
FA_TEST(columns_of_8_rows_have_no_conflicts) {
    for (int dim = 16; dim <= 256; dim += 16)
        for (int row0 = 0; row0 < 64; row0 += 8)
            for (int chunk = 0; chunk < dim / 8; chunk++) {
                int banks = 0;
                for (int row = row0; row < row0 + 8; row++) banks |= 1 << FAI_AT(dim, row, chunk) / 16 % 8;
                FA_EXPECT_MSG(banks == 255, "dim %d, row %d, chunk %d: %x", dim, row0, chunk,
                              (unsigned)banks);
            }
}

/* Rows as they are copied, 8 threads at a time: GROUP chunks of 8 / GROUP rows. */
FA_TEST(copies_have_no_conflicts) {
    for (int dim = 16; dim <= 256; dim += 16)
        for (int thread0 = 0; thread0 < 256; thread0 += 8)
            for (int column = 0; column < dim / 8; column += FAI_GROUP(dim)) {
                int banks = 0;
                for (int t = thread0; t < thread0 + 8; t++)
                    banks |= 1 << FAI_AT(dim, t / FAI_GROUP(dim), column + t % FAI_GROUP(dim)) / 16 % 8;
                FA_EXPECT_MSG(banks == 255, "dim %d, thread %d, column %d: %x", dim, thread0, column,
                              (unsigned)banks);
            }
}

/* base + constant and base ^ constant go where FAI_AT would. */
FA_TEST(moves) {
    for (int dim = 16; dim <= 256; dim += 16)
        for (int tile = 0; tile <= 4096; tile += 128)
            for (int lane = 0; lane < 32; lane++)
                for (int rows = 0; rows < 64; rows += 8)
                    for (int chunks = 0; chunks < dim / 8; chunks += 2) {
                        const int row = FAI_LDMATRIX_A_ROW(lane), chunk = FAI_LDMATRIX_A_CHUNK(lane);
                        const int base = tile + FAI_AT(dim, row, chunk);
                        const int want = tile + FAI_AT(dim, row + rows, chunk + chunks);
                        FA_REQUIRE(FAI_MOVE(dim, base, rows, chunks) == want);
                    }
}

/* The accumulator fragment has each element of 16 x 8 once. */
FA_TEST(accumulators_cover_the_matrix_once) {
    int count[16][8] = {{0}};
    for (int lane = 0; lane < 32; lane++)
        for (int v = 0; v < 4; v++) count[FAI_C_ROW(lane, v)][FAI_C_COL(lane, v)]++;
    for (int n = 0; n < 128; n++) FA_EXPECT(count[n / 8][n % 8] == 1);
}

/* What ldmatrix.x4 gives to lane l: of its matrix n, whose rows lanes 8n .. 8n+7 point to, elements 2 (l % 4) and the next
 * of row l / 4. transposed: column l / 4, rows 2 (l % 4) and the next. */
static void matrix(int lane, int n, int e, int transposed, int *address_lane, int *element) {
    *address_lane = n * 8 + (transposed ? lane % 4 * 2 + e : lane / 4);
    *element = transposed ? lane / 4 : lane % 4 * 2 + e;
}

/* A (16 x 16): register n of lane l is row l/4 + 8 (n % 2), columns 2 (l % 4) + 8 (n / 2) and the next. */
FA_TEST(a_fragments) {
    for (int lane = 0; lane < 32; lane++)
        for (int n = 0; n < 4; n++)
            for (int e = 0; e < 2; e++) {
                int from, element;
                matrix(lane, n, e, 0, &from, &element);
                FA_EXPECT(FAI_LDMATRIX_A_ROW(from) == lane / 4 + n % 2 * 8);
                FA_EXPECT(FAI_LDMATRIX_A_CHUNK(from) * 8 + element == lane % 4 * 2 + e + n / 2 * 8);
                /* P: of the accumulators of columns 0 .. 7 and 8 .. 15, those of register n */
                FA_EXPECT(FAI_C_ROW(lane, n % 2 * 2 + e) == lane / 4 + n % 2 * 8);
                FA_EXPECT(n / 2 * 8 + FAI_C_COL(lane, n % 2 * 2 + e) == lane % 4 * 2 + e + n / 2 * 8);
            }
}

/* B (16 of k x 8 of n), twice: register r of B number m is k = 2 (l % 4) + 8 r and the next, n = l / 4 + 8 m. */
FA_TEST(b_fragments) {
    for (int lane = 0; lane < 32; lane++)
        for (int n = 0; n < 4; n++)
            for (int e = 0; e < 2; e++) {
                const int m = n / 2, r = n % 2;
                int from, element;
                matrix(lane, n, e, 0, &from, &element); /* of K: rows are n */
                FA_EXPECT(FAI_LDMATRIX_B_ROW(from) == lane / 4 + 8 * m);
                FA_EXPECT(FAI_LDMATRIX_B_CHUNK(from) * 8 + element == lane % 4 * 2 + e + 8 * r);
                matrix(lane, n, e, 1, &from, &element); /* of V: rows are k */
                FA_EXPECT(FAI_LDMATRIX_A_ROW(from) == lane % 4 * 2 + e + 8 * r);
                FA_EXPECT(FAI_LDMATRIX_A_CHUNK(from) * 8 + element == lane / 4 + 8 * m);
            }
}

/* A (16 x 32 bytes), of four accumulators of P: register n of lane l is row l/4 + 8 (n % 2), k = 4 (l % 4) + 16 (n / 2) and
 * three more. Key FAI_PAIRED_KEY(k) is there: two of an accumulator, two of the next one. */
FA_TEST(paired_keys_of_p) {
    int seen[32] = {0};
    for (int k = 0; k < 32; k++) seen[FAI_PAIRED_KEY(k)]++;
    for (int k = 0; k < 32; k++) FA_EXPECT(seen[k] == 1);
    for (int lane = 0; lane < 32; lane++)
        for (int n = 0; n < 4; n++)
            for (int e = 0; e < 4; e++) {
                const int k = lane % 4 * 4 + n / 2 * 16 + e;
                const int accumulator = n / 2 * 2 + e / 2, v = n % 2 * 2 + e % 2;
                FA_EXPECT(FAI_C_ROW(lane, v) == lane / 4 + n % 2 * 8);
                FA_EXPECT(accumulator * 8 + FAI_C_COL(lane, v) == FAI_PAIRED_KEY(k));
            }
}

/* B (32 bytes of k x 8 of n), twice, of ldmatrix.x4.trans and byte permutations 0x6420, 0x7531: register r of lane l of the
 * odd or even B is k = 4 (l % 4) + 16 r and three more, column 2 (l / 4) + odd of 16. */
FA_TEST(paired_keys_of_v) {
    for (int lane = 0; lane < 32; lane++)
        for (int odd = 0; odd < 2; odd++)
            for (int r = 0; r < 2; r++)
                for (int e = 0; e < 4; e++) {
                    const int byte = (odd ? 0x7531 : 0x6420) >> 4 * e & 7; /* of matrices 2 r and 2 r + 1 */
                    int from, element;
                    matrix(lane, 2 * r + byte / 4, byte % 4 / 2, 1, &from, &element);
                    FA_EXPECT(FAI_LDMATRIX_BYTES_ROW(from) == FAI_PAIRED_KEY(lane % 4 * 4 + 16 * r + e));
                    FA_EXPECT(element * 2 + byte % 2 == lane / 4 * 2 + odd);
                }
}

/* Those columns of O: each element of 16 x 16 once, in the accumulator of its mma, 4 adjacent columns in a lane. */
FA_TEST(paired_columns_of_o) {
    int count[16][16] = {{0}};
    for (int lane = 0; lane < 32; lane++)
        for (int odd = 0; odd < 2; odd++)
            for (int v = 0; v < 4; v++) {
                const int column = FAI_PAIRED_COL(lane, odd, v);
                count[FAI_C_ROW(lane, v)][column]++;
                FA_EXPECT(column / 4 == lane % 4 && column / 2 == FAI_C_COL(lane, v) && column % 2 == odd);
            }
    for (int n = 0; n < 256; n++) FA_EXPECT(count[n / 16][n % 16] == 1);
}

/* From chunk 0 any number of chunks on, from chunk 0 .. 3 multiples of 4, with the permutation of the row: what bytes and
 * f32 do. */
FA_TEST(moves_by_single_chunks) {
    for (int dim = 16; dim <= 512; dim += 16)
        for (int lane = 0; lane < 32; lane++)
            for (int chunks = 0; chunks < dim / 8; chunks++) {
                const int base = 128 + FAI_AT(dim, lane, 0), first = 128 + FAI_AT(dim, 0, lane % 4);
                FA_REQUIRE(FAI_MOVE(dim, base, 8, chunks) == 128 + FAI_AT(dim, lane + 8, chunks));
                if (dim % 32 || chunks % 4) continue; /* f32: rows of 64 n bytes */
                FA_REQUIRE(FAI_MOVE(dim, first ^ FAI_SWIZZLE(dim, lane) * 16, lane, chunks) ==
                           128 + FAI_AT(dim, lane, lane % 4 + chunks));
            }
}

FA_TEST_MAIN
