// Products of a matrix with some tokens' vectors, on the CPU; the matrix float32, or packed in 8 or 4 bits.
//
// Every token's result is the same bit for bit in any batch and with any number of threads: sums of a token's products
// are never split differently.
//
//   float32   rows of W as they lie in torch: nothing is packed, weights may change between two calls
//   int8      one scale a row of W; inputs are 16-bit integers, one scale a token; sums are exact integers
//   int4      groups of 32 columns with scale and lowest value (float16); inputs 8-bit, one scale a token and group
//
// Packed weights (quantize.py packs them) are panels of 16 rows, so that one vector of sums belongs to 8 rows and weights
// are read in one stream.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

constexpr int PANEL = 16, GROUP = 32;
enum Kind : int32_t { FLOAT32 = 0, INT8 = 8, INT4 = 4 };

struct Linear {  // mirrored in native.py
    int32_t kind, outputs, inputs, unused;
    const void* weights;
    const float* scales;  // int8: one a row
    const float* bias;    // or null
    int64_t panels() const { return (outputs + PANEL - 1) / PANEL; }
};

struct Int4Group {  // 32 columns of 16 rows
    uint8_t levels[4][PANEL][4];  // low half: columns 4 i + c; high half: 16 + 4 i + c
    uint16_t scale[PANEL], low[PANEL];
};

struct Inputs {  // one block of tokens, rounded
    std::vector<int16_t> wide;
    std::vector<int8_t> narrow;
    std::vector<float> scale, sum;
    void reserve(int64_t tokens, int64_t inputs) {
        const size_t padded = (inputs + GROUP - 1) / GROUP * GROUP;
        wide.resize(std::max(wide.size(), tokens * padded));
        narrow.resize(std::max(narrow.size(), tokens * padded));
        scale.resize(std::max(scale.size(), tokens * padded / GROUP));
        sum.resize(std::max(sum.size(), tokens * padded / GROUP));
    }
};

inline float dot(const float* a, const float* b, int n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

// -- inputs to integers ----------------------------------------------------------------------------------------------

float largest(const float* x, int n) {
    float top = 1e-12f;
#pragma omp simd reduction(max : top)
    for (int i = 0; i < n; i++) top = std::max(top, std::fabs(x[i]));
    return top;
}

template <class Integer>
void to_integers(const float* x, int n, float factor, Integer* y) {
#pragma omp simd
    for (int i = 0; i < n; i++) y[i] = Integer(int32_t((x[i] * factor + 12582912.0f) - 12582912.0f));
}

// Sums of products stay below 2^31: levels * 127 * inputs.
int wide_levels(int inputs) { return int(std::min<int64_t>(32767, ((int64_t(1) << 31) - 1) / (127 * int64_t(inputs)))); }

void round_inputs(const Linear& w, const float* x, int64_t token, Inputs& in) {
    const int n = w.inputs;
    if (w.kind == INT8) {
        const int64_t width = (n + 1) / 2 * 2;
        int16_t* y = in.wide.data() + token * width;
        const float top = largest(x, n);
        const int levels = wide_levels(n);
        y[width - 1] = 0;
        to_integers(x, n, levels / top, y);
        in.scale[token] = top / levels;
    } else if (w.kind == INT4) {
        for (int64_t g = 0; g < n / GROUP; g++) {
            const int64_t group = token * (n / GROUP) + g;
            int8_t* y = in.narrow.data() + group * GROUP;
            const float top = largest(x + g * GROUP, GROUP);
            to_integers(x + g * GROUP, GROUP, 127 / top, y);
            int sum = 0;
            for (int i = 0; i < GROUP; i++) sum += y[i];
            in.scale[group] = top / 127;
            in.sum[group] = in.scale[group] * sum;
        }
    }
}

// -- 16 rows of W times N tokens -> y[token][row] ---------------------------------------------------------------------

#ifdef __AVX2__
inline __m256i pair(const void* x) {  // the same 4 bytes in every place
    int32_t bits;
    std::memcpy(&bits, x, 4);
    return _mm256_set1_epi32(bits);
}
#endif

// y[t * stride + r] = a[r] . x[t]: rows of n floats, N vectors of n floats.
template <int N>
void dots(const float* a, int64_t num_rows, const float* x, int n, float* y, int64_t stride) {
    int64_t r = 0;
#ifdef __AVX2__
    for (; r + 4 <= num_rows; r += 4, a += 4 * int64_t(n)) {
        __m256 sums[N][4];
        for (int t = 0; t < N; t++)
            for (int j = 0; j < 4; j++) sums[t][j] = _mm256_setzero_ps();
        int i = 0;
        for (; i + 8 <= n; i += 8) {
            __m256 rows[4];
            for (int j = 0; j < 4; j++) rows[j] = _mm256_loadu_ps(a + int64_t(j) * n + i);
            for (int t = 0; t < N; t++) {
                const __m256 input = _mm256_loadu_ps(x + int64_t(t) * n + i);
                for (int j = 0; j < 4; j++) sums[t][j] = _mm256_fmadd_ps(rows[j], input, sums[t][j]);
            }
        }
        for (int t = 0; t < N; t++) {
            const __m256 s01 = _mm256_hadd_ps(sums[t][0], sums[t][1]), s23 = _mm256_hadd_ps(sums[t][2], sums[t][3]);
            const __m256 s = _mm256_hadd_ps(s01, s23);
            _mm_storeu_ps(y + t * stride + r, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
            for (int k = i; k < n; k++)
                for (int j = 0; j < 4; j++) y[t * stride + r + j] += a[int64_t(j) * n + k] * x[int64_t(t) * n + k];
        }
    }
#endif
    for (; r < num_rows; r++, a += n)
        for (int t = 0; t < N; t++) y[t * stride + r] = dot(a, x + int64_t(t) * n, n);
}

template <int N>
void int8_rows(const Linear& w, int64_t panel, const Inputs& in, int64_t token, float y[][PANEL]) {
    const int64_t pairs = (w.inputs + 1) / 2;
    const int8_t* a = static_cast<const int8_t*>(w.weights) + panel * pairs * 2 * PANEL;
    const int16_t* x = in.wide.data() + token * pairs * 2;
    int32_t sums[N][PANEL];
#ifdef __AVX2__
    __m256i acc[N][2];
    for (int t = 0; t < N; t++) acc[t][0] = acc[t][1] = _mm256_setzero_si256();
    for (int64_t k = 0; k < pairs; k++, a += 2 * PANEL) {
        const __m256i low = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a)));
        const __m256i high = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a + PANEL)));
        for (int t = 0; t < N; t++) {
            const __m256i input = pair(x + (t * pairs + k) * 2);
            acc[t][0] = _mm256_add_epi32(acc[t][0], _mm256_madd_epi16(low, input));
            acc[t][1] = _mm256_add_epi32(acc[t][1], _mm256_madd_epi16(high, input));
        }
    }
    for (int t = 0; t < N; t++)
        for (int h = 0; h < 2; h++) _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums[t] + 8 * h), acc[t][h]);
#else
    std::memset(sums, 0, sizeof sums);
    for (int64_t k = 0; k < pairs; k++, a += 2 * PANEL)
        for (int t = 0; t < N; t++) {
            const int16_t* input = x + (t * pairs + k) * 2;
            for (int r = 0; r < PANEL; r++) sums[t][r] += a[2 * r] * input[0] + a[2 * r + 1] * input[1];
        }
#endif
    for (int t = 0; t < N; t++)
        for (int r = 0; r < PANEL; r++) y[t][r] = float(sums[t][r]) * (in.scale[token + t] * w.scales[panel * PANEL + r]);
}

template <int N>
void int4_rows(const Linear& w, int64_t panel, const Inputs& in, int64_t token, float y[][PANEL]) {
    const int64_t groups = w.inputs / GROUP;
    const Int4Group* group = static_cast<const Int4Group*>(w.weights) + panel * groups;
#ifdef __AVX2__
    const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256 total[N][2];
    for (int t = 0; t < N; t++) total[t][0] = total[t][1] = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++, group++) {
        __m256i acc[N][2];  // 16 bits hold 8 x 2 x 15 x 127
        for (int t = 0; t < N; t++) acc[t][0] = acc[t][1] = _mm256_setzero_si256();
        for (int q = 0; q < 4; q++) {
            __m256i levels[2][2];
            for (int h = 0; h < 2; h++) {
                const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(group->levels[q][8 * h]));
                levels[0][h] = _mm256_and_si256(both, mask);
                levels[1][h] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
            }
            for (int t = 0; t < N; t++)
                for (int part = 0; part < 2; part++) {
                    const __m256i x = pair(in.narrow.data() + ((token + t) * groups + g) * GROUP + 16 * part + 4 * q);
                    for (int h = 0; h < 2; h++)
                        acc[t][h] = _mm256_add_epi16(acc[t][h], _mm256_maddubs_epi16(levels[part][h], x));
                }
        }
        for (int h = 0; h < 2; h++) {
            const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(group->scale + 8 * h)));
            const __m256 lowest = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(group->low + 8 * h)));
            for (int t = 0; t < N; t++) {
                const __m256 sum = _mm256_cvtepi32_ps(_mm256_madd_epi16(acc[t][h], ones));
                const int64_t place = (token + t) * groups + g;
                total[t][h] = _mm256_fmadd_ps(sum, _mm256_mul_ps(scale, _mm256_set1_ps(in.scale[place])), total[t][h]);
                total[t][h] = _mm256_fmadd_ps(lowest, _mm256_set1_ps(in.sum[place]), total[t][h]);
            }
        }
    }
    for (int t = 0; t < N; t++)
        for (int h = 0; h < 2; h++) _mm256_storeu_ps(y[t] + 8 * h, total[t][h]);
#else
    for (int t = 0; t < N; t++) std::fill_n(y[t], PANEL, 0.0f);
    for (int64_t g = 0; g < groups; g++, group++)
        for (int t = 0; t < N; t++) {
            const int64_t place = (token + t) * groups + g;
            const int8_t* x = in.narrow.data() + place * GROUP;
            for (int r = 0; r < PANEL; r++) {
                int sum = 0;
                for (int q = 0; q < 4; q++)
                    for (int c = 0; c < 4; c++) {
                        const int both = group->levels[q][r][c];
                        sum += (both & 15) * x[4 * q + c] + (both >> 4) * x[16 + 4 * q + c];
                    }
                y[t][r] += float(sum) * float(std::bit_cast<_Float16>(group->scale[r])) * in.scale[place];
                y[t][r] += float(std::bit_cast<_Float16>(group->low[r])) * in.sum[place];
            }
        }
#endif
}

template <int N>
void tile(const Linear& w, int64_t panel, const float* x, const Inputs& in, int64_t token, float* y, bool add) {
    float block[N][PANEL];
    const int rows = int(std::min<int64_t>(PANEL, w.outputs - panel * PANEL));
    if (w.kind == INT8) int8_rows<N>(w, panel, in, token, block);
    else if (w.kind == INT4) int4_rows<N>(w, panel, in, token, block);
    else dots<N>(static_cast<const float*>(w.weights) + panel * PANEL * w.inputs, rows, x + token * w.inputs, w.inputs,
                 block[0], PANEL);
    for (int t = 0; t < N; t++) {
        float* out = y + (token + t) * w.outputs + panel * PANEL;
        const float* bias = w.bias ? w.bias + panel * PANEL : nullptr;
        for (int r = 0; r < rows; r++) out[r] = (add ? out[r] : 0.0f) + block[t][r] + (bias ? bias[r] : 0.0f);
    }
}

// y = x W^T + bias, or y += that; x [tokens, inputs], y [tokens, outputs]. All threads of a team call it.
void linear(const Linear& w, const float* x, int64_t tokens, float* y, Inputs& in, bool add = false) {
    if (w.kind != FLOAT32) {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens; t++) round_inputs(w, x + t * w.inputs, t, in);
    }
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < w.panels(); panel++) {
        int64_t t = 0;
        const int64_t wide = w.kind == FLOAT32 ? 3 : 4;  // float32: 3 x 4 sums fill 12 of 16 registers
        for (; wide == 4 && t + 4 <= tokens; t += 4) tile<4>(w, panel, x, in, t, y, add);
        for (; t + 3 <= tokens; t += 3) tile<3>(w, panel, x, in, t, y, add);
        if (tokens - t == 2) tile<2>(w, panel, x, in, t, y, add);
        if (tokens - t == 1) tile<1>(w, panel, x, in, t, y, add);
    }
}

}  // namespace
