// One decode step of a decoder with norms before its parts (GPT-2 to Qwen3), whole, and single products with packed
// weights, for the CPU.
//
// Built on first use by native.py (no torch header, some seconds); inference/native_decode.py calls. As in
// native_products.h, a token's result does not depend on what is computed beside it.
#include "native_products.h"
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
#endif

namespace {

constexpr int TOKEN_BLOCK = 64;

enum Activation : int32_t { SWIGLU = 0, GELU = 1, RELU2 = 2 };

struct Norm {  // mirrored in native.py, as are Layer and Model
    const float *gain, *shift;  // LayerNorm, or RMSNorm where shift is null
};

struct Layer {
    Linear qkv, out, up, down;  // SwiGLU: rows of the gate, then of up
    Norm attention_norm, mlp_norm;
    const float *q_norm, *k_norm;  // or null
};

struct Model {
    int32_t num_layers, dim, heads, kv_heads, channels, mlp;
    float eps;
    Activation activation;
    const float *embedding, *positions;  // learned positions, or null: then
    const float *cosine, *sine;          // rotary ones
    Norm final_norm;
    const Layer* layers;
    Linear head;
};

inline float exp_(float x) {  // Cephes: relative error below 2e-7
    x = std::min(std::max(x, -87.3f), 88.0f);
    const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f, p = p * r + 8.3334519073e-3f, p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f, p = p * r + 5.0000001201e-1f;
    return (p * r * r + r + 1.0f) * std::bit_cast<float>((int32_t(n) + 127) << 23);
}

void rms_norm(const float* x, const float* gain, float* y, int n, float eps) {
    const float scale = 1.0f / std::sqrt(dot(x, x, n) / n + eps);
#pragma omp simd
    for (int i = 0; i < n; i++) y[i] = x[i] * scale * gain[i];
}

void normalize(const float* x, const Norm& norm, float* y, int n, float eps) {
    if (!norm.shift) return rms_norm(x, norm.gain, y, n, eps);
    float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += x[i];
    const float mean = sum / n;
#pragma omp simd reduction(+ : squares)
    for (int i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    const float scale = 1.0f / std::sqrt(squares / n + eps);
#pragma omp simd
    for (int i = 0; i < n; i++) y[i] = (x[i] - mean) * scale * norm.gain[i] + norm.shift[i];
}

// What `down` reads: F numbers of a token's `up`, of which SwiGLU has two halves.
void activate(Activation kind, const float* up, float* inner, int F) {
    if (kind == SWIGLU) {
#pragma omp simd
        for (int f = 0; f < F; f++) inner[f] = up[f] / (1.0f + exp_(-up[f])) * up[F + f];
    } else if (kind == GELU) {  // (1 + tanh u) / 2 = 1 / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + .044715 x^3)
#pragma omp simd
        for (int f = 0; f < F; f++)
            inner[f] = up[f] / (1.0f + exp_(-1.5957691216f * (up[f] + 0.044715f * up[f] * up[f] * up[f])));
    } else {
#pragma omp simd
        for (int f = 0; f < F; f++) inner[f] = std::max(up[f], 0.0f) * std::max(up[f], 0.0f);
    }
}

// -- attention of one new token -----------------------------------------------------------------------------------------

void rotate(float* x, const float* cosine, const float* sine, int n) {  // sine carries the sign
    const int half = n / 2;
#pragma omp simd
    for (int c = 0; c < half; c++) {
        const float a = x[c], b = x[c + half];
        x[c] = a * cosine[c] + b * sine[c];
        x[c + half] = b * cosine[c + half] + a * sine[c + half];
    }
}

// Sum of W channels of the values, by weight.
template <int W>
void weighted(const float* weight, const float* values, int64_t length, int channels, float total, float* out) {
    float sums[W] = {};
    for (int64_t s = 0; s < length; s++, values += channels)
#pragma omp simd
        for (int c = 0; c < W; c++) sums[c] += weight[s] * values[c];
    for (int c = 0; c < W; c++) out[c] = sums[c] / total;
}

// q [group, channels] -> out, over keys and values [length, channels] of one key head; scores [group, length].
void attend(const float* q, const float* keys, const float* values, int group, int channels, int64_t length,
            float* scores, float* out) {
    int g = 0;
    for (; g + 3 <= group; g += 3) dots<3>(keys, length, q + g * channels, channels, scores + g * length, length);
    for (; g < group; g++) dots<1>(keys, length, q + g * channels, channels, scores + g * length, length);
    const float scale = 1.0f / std::sqrt(float(channels));
    for (g = 0; g < group; g++) {
        float* weight = scores + g * length;
        float top = weight[0], total = 0;
#pragma omp simd reduction(max : top)
        for (int64_t s = 0; s < length; s++) top = std::max(top, weight[s]);
#pragma omp simd reduction(+ : total)
        for (int64_t s = 0; s < length; s++) total += weight[s] = exp_((weight[s] - top) * scale);
        int c = 0;
        for (; c + 32 <= channels; c += 32) weighted<32>(weight, values + c, length, channels, total, out + g * channels + c);
        for (; c < channels; c++) weighted<1>(weight, values + c, length, channels, total, out + g * channels + c);
    }
}

struct Scratch {  // kept by each calling thread
    Inputs inputs;
    std::vector<float> x, y, qkv, attended, up, inner, scores;
};
thread_local Scratch kept;

void fit(std::vector<float>& buffer, int64_t size) {
    if (int64_t(buffer.size()) < size) buffer.resize(size);
}

}  // namespace

extern "C" {

// y [tokens, outputs] = x [tokens, inputs] W^T + bias
void wuya_linear(const Linear* w, const float* x, int64_t tokens, float* y, int threads) {
    Inputs& in = kept.inputs;
    in.reserve(std::min<int64_t>(tokens, TOKEN_BLOCK), w->inputs);
#pragma omp parallel num_threads(threads) if (threads > 1)
    for (int64_t start = 0; start < tokens; start += TOKEN_BLOCK)
        linear(*w, x + start * w->inputs, std::min<int64_t>(TOKEN_BLOCK, tokens - start), y + start * w->outputs, in);
}

// One token more for each of the first `rows` rows of the cache: its keys and values are written at `lengths[row]`.
// Or `rows` tokens that follow each other, at those places of the cache's row 0, where `one_row` is set.
// cache [layers, 2, cache_rows, kv_heads, cache_length, channels]; logits [rows, vocabulary].
void wuya_decode(const Model* m, int rows, const int64_t* ids, const int64_t* lengths, int one_row, float* cache,
                 int64_t cache_rows, int64_t cache_length, float* logits, int threads) {
    const int D = m->dim, H = m->heads, K = m->kv_heads, C = m->channels, F = m->mlp, group = H / K;
    const int width = (H + 2 * K) * C, up_width = m->layers[0].up.outputs;
    const int64_t longest = *std::max_element(lengths, lengths + rows) + 1, head = cache_length * C;
    Scratch& s = kept;
    s.inputs.reserve(rows, std::max({D, H * C, F}));
    fit(s.x, rows * D), fit(s.y, rows * D), fit(s.qkv, rows * width), fit(s.attended, rows * H * C);
    fit(s.up, rows * up_width), fit(s.inner, rows * F), fit(s.scores, threads * group * longest);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int b = 0; b < rows; b++) {
            std::memcpy(&s.x[b * D], m->embedding + ids[b] * D, D * sizeof(float));
            for (int d = 0; m->positions && d < D; d++) s.x[b * D + d] += m->positions[lengths[b] * D + d];
        }
        for (int n = 0; n < m->num_layers; n++) {
            const Layer& layer = m->layers[n];
            float* keys = cache + int64_t(2 * n) * cache_rows * K * head;
            float* values = keys + cache_rows * K * head;
#pragma omp for schedule(static)
            for (int b = 0; b < rows; b++) normalize(&s.x[b * D], layer.attention_norm, &s.y[b * D], D, m->eps);
            linear(layer.qkv, s.y.data(), rows, s.qkv.data(), s.inputs);
#pragma omp for schedule(static) collapse(2)
            for (int b = 0; b < rows; b++)
                for (int k = 0; k < K; k++) {
                    const int64_t place = lengths[b], row = (one_row ? k : int64_t(b) * K + k) * head;
                    float *q = &s.qkv[b * width + k * group * C], *key = &s.qkv[b * width + (H + k) * C];
                    for (int g = 0; g <= group; g++) {
                        float* part = g < group ? q + g * C : key;
                        const float* norm = g < group ? layer.q_norm : layer.k_norm;
                        if (norm) rms_norm(part, norm, part, C, m->eps);
                        if (!m->positions) rotate(part, m->cosine + place * C, m->sine + place * C, C);
                    }
                    std::memcpy(keys + row + place * C, key, C * sizeof(float));
                    std::memcpy(values + row + place * C, key + K * C, C * sizeof(float));
                }
#pragma omp for schedule(static) collapse(2)
            for (int b = 0; b < rows; b++)  // a token of the same row sees those before it: all are written by now
                for (int k = 0; k < K; k++) {
                    const int64_t row = (one_row ? k : int64_t(b) * K + k) * head;
                    attend(&s.qkv[b * width + k * group * C], keys + row, values + row, group, C, lengths[b] + 1,
                           &s.scores[omp_get_thread_num() * group * longest], &s.attended[(b * H + k * group) * C]);
                }
            linear(layer.out, s.attended.data(), rows, s.x.data(), s.inputs, true);
#pragma omp for schedule(static)
            for (int b = 0; b < rows; b++) normalize(&s.x[b * D], layer.mlp_norm, &s.y[b * D], D, m->eps);
            linear(layer.up, s.y.data(), rows, s.up.data(), s.inputs);
#pragma omp for schedule(static)
            for (int b = 0; b < rows; b++) activate(m->activation, &s.up[int64_t(b) * up_width], &s.inner[int64_t(b) * F], F);
            linear(layer.down, s.inner.data(), rows, s.x.data(), s.inputs, true);
        }
#pragma omp for schedule(static)
        for (int b = 0; b < rows; b++) normalize(&s.x[b * D], m->final_norm, &s.y[b * D], D, m->eps);
        linear(m->head, s.y.data(), rows, logits, s.inputs);
    }
}

}  // extern "C"
