/* Vectors of x86, and its old floating point. */
#include <emmintrin.h>
#include <string.h>

#include "bench.h"

static uint64_t bits(double value)
{
	uint64_t b;
	memcpy(&b, &value, 8);
	return b;
}

static uint64_t axpy_single(void)
{
	enum { N = 4096 };
	static float x[N] __attribute__((aligned(16))), y[N] __attribute__((aligned(16)));
	for (int i = 0; i < N; i++)
		x[i] = (float)(i % 17) * 0.25f, y[i] = (float)(i % 13);
	__m128 a = _mm_set1_ps(0.0001f);
	for (int round = 0; round < 50000; round++)
		for (int i = 0; i < N; i += 8) {
			_mm_store_ps(y + i, _mm_add_ps(_mm_load_ps(y + i), _mm_mul_ps(a, _mm_load_ps(x + i))));
			_mm_store_ps(y + i + 4, _mm_add_ps(_mm_load_ps(y + i + 4), _mm_mul_ps(a, _mm_load_ps(x + i + 4))));
		}
	double sum = 0;
	for (int i = 0; i < N; i++)
		sum += y[i];
	return bits(sum);
}

static uint64_t dgemm(void)
{
	enum { N = 160 };
	static double a[N][N] __attribute__((aligned(16))), b[N][N] __attribute__((aligned(16))),
		c[N][N] __attribute__((aligned(16)));
	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++)
			a[i][j] = (i * j) % 7 * 0.5, b[i][j] = (i + j) % 5 * 0.25, c[i][j] = 0;
	for (int round = 0; round < 35; round++)
		for (int i = 0; i < N; i++)
			for (int k = 0; k < N; k++) {
				__m128d factor = _mm_set1_pd(a[i][k]);
				for (int j = 0; j < N; j += 2) {
					__m128d product = _mm_mul_pd(factor, _mm_load_pd(&b[k][j]));
					_mm_store_pd(&c[i][j], _mm_add_pd(_mm_load_pd(&c[i][j]), product));
				}
			}
	double sum = 0;
	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++)
			sum += c[i][j];
	return bits(sum);
}

static uint64_t byte_vectors(void)
{
	enum { N = 65536 };
	static unsigned char data[N] __attribute__((aligned(16)));
	uint32_t seed = 11;
	for (int i = 0; i < N; i++)
		data[i] = (unsigned char)next_random(&seed);
	__m128i sum = _mm_setzero_si128(), best = sum, needle = _mm_set1_epi8(42);
	uint64_t found = 0;
	for (int round = 0; round < 4000; round++) {
		__m128i key = _mm_set1_epi8((char)round);
		for (int i = 0; i < N; i += 16) {
			__m128i v = _mm_xor_si128(_mm_load_si128((void *)(data + i)), key);
			found += (unsigned)__builtin_popcount((unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(v, needle)));
			sum = _mm_add_epi64(sum, _mm_sad_epu8(v, _mm_setzero_si128()));
			best = _mm_max_epu8(best, _mm_avg_epu8(v, _mm_shuffle_epi32(v, 0x4e)));
		}
	}
	uint64_t out[2], top[2];
	_mm_storeu_si128((void *)out, sum);
	_mm_storeu_si128((void *)top, best);
	return out[0] + out[1] + found * 3 + (top[0] ^ top[1]);
}

static uint64_t x87(void)
{
	long double sum = 0, x = 1;
	for (int i = 1; i < 8000000; i++) {
		x = x * 1.0000001L + 0.5L / i;
		sum += x / (i + 0.25L) - sum * 1e-6L;
	}
	return bits((double)sum);
}

const struct bench_case vector_cases[] = {
	{ "float", "axpy-single", axpy_single },
	{ "float", "dgemm", dgemm },
	{ "float", "byte-vectors", byte_vectors },
	{ "float", "x87", x87 },
	{ 0, 0, 0 },
};
