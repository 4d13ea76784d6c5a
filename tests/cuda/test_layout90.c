/* test_layout90.c - the index maps of the sm_90a kernel of flashattn_cuda.cuh, enumerated on the CPU: panels in
 * shared memory as TMA writes them and as wgmma reads them, accumulators. */
#include "fa_test.h"

#define FAI_MAPS_ONLY
#include "flashattn_cuda.cuh"

/* A 128-byte swizzle: bits 4 - 6 of an address change by bits 7 - 9. */
static int swizzled(int address) { return address ^ (address >> 7 & 7) << 4; }

/* TMA writes box after box, row after row of 128 bytes, and swizzles. */
FA_TEST(panels_are_what_tma_writes) {
    for (int dim = 64; dim <= 256; dim += 16)
        for (int rows = 64; rows <= 128; rows += 16)
            for (int row = 0; row < rows; row++)
                for (int chunk = 0; chunk < dim / 8; chunk++) {
                    const int box = chunk / 8 * rows * 128;
                    FA_REQUIRE(FAI_PANEL_AT(rows, row, chunk) == swizzled(box + row * 128 + chunk % 8 * 16));
                    FA_REQUIRE(FAI_PANEL_AT(rows, row, chunk) < FAI_PANELS(dim) * rows * 128);
                }
}

/* 8 rows of a chunk column lie in 8 different groups of 4 banks: one wavefront of stmatrix; so do 8 chunks of a
 * row. */
FA_TEST(no_bank_conflicts) {
    for (int row0 = 0; row0 < 64; row0 += 8)
        for (int chunk = 0; chunk < 32; chunk++) {
            int column = 0, line = 0;
            for (int n = 0; n < 8; n++) {
                column |= 1 << FAI_PANEL_AT(64, row0 + n, chunk) / 16 % 8;
                line |= 1 << FAI_PANEL_AT(64, row0 + chunk % 8, chunk / 8 * 8 + n) / 16 % 8;
            }
            FA_EXPECT(column == 255 && line == 255);
        }
}

/* Q and K, k innermost: element (row, k) of step c, whose descriptor starts c / 4 panels and c % 4 * 32 bytes
 * on. */
FA_TEST(products_with_k_find_their_elements) {
    for (int rows = 64; rows <= 128; rows += 16)
        for (int c = 0; c < 16; c++)
            for (int row = 0; row < rows; row++)
                for (int k = 0; k < 16; k++) {
                    const int start = c / 4 * rows * 128 + c % 4 * 32;
                    const int address = swizzled(start + row / 8 * 1024 + row % 8 * 128 + k * 2);
                    const int column = c * 16 + k;
                    FA_REQUIRE(address == FAI_PANEL_AT(rows, row, column / 8) + column % 8 * 2);
                }
}

/* V, n innermost: element (k, n) of step c, 16 rows of 128 bytes further each; leading: a panel. */
FA_TEST(products_with_v_find_their_elements) {
    for (int rows = 64; rows <= 128; rows += 16)
        for (int c = 0; c < rows / 16; c++)
            for (int k = 0; k < 16; k++)
                for (int n = 0; n < 256; n++) {
                    const int start = c * 2048, leading = rows * 128;
                    const int address =
                        swizzled(start + n / 64 * leading + k / 8 * 1024 + k % 8 * 128 + n % 64 * 2);
                    FA_REQUIRE(address == FAI_PANEL_AT(rows, c * 16 + k, n / 8) + n % 8 * 2);
                }
}

/* fp8, k innermost in V, too, whose rows are columns of 128 keys: element (k, n) of step c is key c 32 + k of column n. */
FA_TEST(products_of_bytes_find_their_elements) {
    for (int c = 0; c < 4; c++)
        for (int n = 0; n < 256; n++)
            for (int k = 0; k < 32; k++) {
                const int address = swizzled(c * 32 + n / 8 * 1024 + n % 8 * 128 + k), place = c * 32 + k;
                FA_REQUIRE(address == FAI_PANEL_AT(256, n, place / 16) + place % 16);
            }
}

/* P of fp8: byte e of register r of A, of 32 places r / 4: row l/4 + 8 (r % 2), place 4 (l % 4) + e, 16 more for r / 2 % 2;
 * packed from elements 8 (r / 2) + 2 (r % 2), the next, and those 4 behind, whose keys are the ones at these places. */
FA_TEST(accumulators_are_fragments_of_bytes) {
    for (int thread = 0; thread < 128; thread++)
        for (int r = 0; r < 16; r++)
            for (int e = 0; e < 4; e++) {
                const int i = r / 2 * 8 + r % 2 * 2 + e / 2 * 4 + e % 2, lane = thread % 32;
                const int place = r / 4 * 32 + r / 2 % 2 * 16 + lane % 4 * 4 + e;
                FA_EXPECT(FAI_WGMMA_ROW(thread, i) == thread / 32 * 16 + lane / 4 + r % 2 * 8);
                FA_EXPECT(FAI_WGMMA_COL(thread, i) == FAI_PAIRED_KEY(place));
            }
}

FA_TEST(accumulators_cover_the_matrix_once) {
    static unsigned char count[64][256];
    for (int thread = 0; thread < 128; thread++)
        for (int i = 0; i < 128; i++) count[FAI_WGMMA_ROW(thread, i)][FAI_WGMMA_COL(thread, i)]++;
    for (int n = 0; n < 64 * 256; n++) FA_EXPECT(count[n / 256][n % 256] == 1);
}

/* P: elements 2 r and 2 r + 1 of an accumulator, rounded, are register r of A: of its 16 columns r / 4, row
 * l/4 + 8 (r % 2), columns 2 (l % 4) + 8 (r / 2 % 2) and the next. */
FA_TEST(accumulators_are_a_fragments) {
    for (int thread = 0; thread < 128; thread++)
        for (int r = 0; r < 32; r++)
            for (int e = 0; e < 2; e++) {
                const int lane = thread % 32;
                FA_EXPECT(FAI_WGMMA_ROW(thread, 2 * r + e) == thread / 32 * 16 + lane / 4 + r % 2 * 8);
                FA_EXPECT(FAI_WGMMA_COL(thread, 2 * r + e) == r / 4 * 16 + r / 2 % 2 * 8 + lane % 4 * 2 + e);
            }
}

/* What lane l has of 16 columns goes through stmatrix.x4, whose lane l gives the address of row l % 16 and the
 * chunk l / 16: register n is of matrix n, rows 8 (n % 2) on and chunk n / 2. */
FA_TEST(stmatrix_stores_the_accumulator) {
    for (int lane = 0; lane < 32; lane++)
        for (int n = 0; n < 4; n++)
            for (int e = 0; e < 2; e++) {
                const int address_lane = n * 8 + lane / 4; /* of row lane / 4 of matrix n */
                FA_EXPECT(address_lane % 16 == FAI_WGMMA_ROW(lane, 2 * n + e));
                FA_EXPECT(address_lane / 16 * 8 + lane % 4 * 2 + e == FAI_WGMMA_COL(lane, 2 * n + e));
            }
}

FA_TEST_MAIN
