/* Vectors of RISC-V, in loops that take what vsetvli gives, as the V extension's chapter shows them. */
#include <string.h>

#include "bench.h"

static uint64_t bits(double value)
{
	uint64_t b;
	memcpy(&b, &value, 8);
	return b;
}

/* y += a * x */
static void saxpy(long n, float a, const float *x, float *y)
{
	long vl;
	__asm__ volatile("1: vsetvli %[vl], %[n], e32, m4, ta, ma\n"
			 "vle32.v v8, (%[x])\n"
			 "vle32.v v16, (%[y])\n"
			 "vfmacc.vf v16, %[a], v8\n"
			 "sub %[n], %[n], %[vl]\n"
			 "vse32.v v16, (%[y])\n"
			 "slli %[vl], %[vl], 2\n"
			 "add %[x], %[x], %[vl]\n"
			 "add %[y], %[y], %[vl]\n"
			 "bnez %[n], 1b\n"
			 : [vl] "=&r"(vl), [n] "+r"(n), [x] "+r"(x), [y] "+r"(y)
			 : [a] "f"(a)
			 : "memory");
}

static uint64_t axpy_single(void)
{
	enum { N = 4096 + 3 };
	static float x[N], y[N];
	for (int i = 0; i < N; i++)
		x[i] = (float)(i % 17) * 0.25f, y[i] = (float)(i % 13);
	for (int round = 0; round < 10000; round++)
		saxpy(N, 0.0001f, x, y);
	double sum = 0;
	for (int i = 0; i < N; i++)
		sum += y[i];
	return bits(sum);
}

static void daxpy(long n, double a, const double *x, double *y)
{
	long vl;
	__asm__ volatile("1: vsetvli %[vl], %[n], e64, m2, ta, ma\n"
			 "vle64.v v8, (%[x])\n"
			 "vle64.v v16, (%[y])\n"
			 "vfmul.vf v8, v8, %[a]\n"
			 "vfadd.vv v16, v16, v8\n"
			 "vse64.v v16, (%[y])\n"
			 "sub %[n], %[n], %[vl]\n"
			 "sh3add %[x], %[vl], %[x]\n"
			 "sh3add %[y], %[vl], %[y]\n"
			 "bnez %[n], 1b\n"
			 : [vl] "=&r"(vl), [n] "+r"(n), [x] "+r"(x), [y] "+r"(y)
			 : [a] "f"(a)
			 : "memory");
}

static uint64_t dgemm(void)
{
	enum { N = 160 };
	static double a[N][N], b[N][N], c[N][N];
	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++)
			a[i][j] = (i * j) % 7 * 0.5, b[i][j] = (i + j) % 5 * 0.25, c[i][j] = 0;
	for (int round = 0; round < 8; round++)
		for (int i = 0; i < N; i++)
			for (int k = 0; k < N; k++)
				daxpy(N, a[i][k], b[k], c[i]);
	double sum = 0;
	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++)
			sum += c[i][j];
	return bits(sum);
}

static uint64_t byte_vectors(void)
{
	enum { N = 65536 };
	static unsigned char data[N], best[N];
	uint32_t seed = 11;
	for (int i = 0; i < N; i++)
		data[i] = (unsigned char)next_random(&seed), best[i] = 0;
	uint64_t found = 0;
	for (long round = 0; round < 3200; round++) {
		long n = N, vl, hits = 0, count;
		const unsigned char *in = data;
		unsigned char *out = best;
		__asm__ volatile("1: vsetvli %[vl], %[n], e8, m4, ta, ma\n"
				 "vle8.v v8, (%[in])\n"
				 "vle8.v v16, (%[out])\n"
				 "vxor.vx v8, v8, %[key]\n"
				 "vmseq.vx v0, v8, %[needle]\n"
				 "vmaxu.vv v16, v16, v8\n"
				 "vcpop.m %[count], v0\n"
				 "vse8.v v16, (%[out])\n"
				 "add %[hits], %[hits], %[count]\n"
				 "sub %[n], %[n], %[vl]\n"
				 "add %[in], %[in], %[vl]\n"
				 "add %[out], %[out], %[vl]\n"
				 "bnez %[n], 1b\n"
				 : [vl] "=&r"(vl), [n] "+r"(n), [in] "+r"(in), [out] "+r"(out), [hits] "+r"(hits),
				   [count] "=&r"(count)
				 : [key] "r"(round), [needle] "r"(42L)
				 : "memory");
		found += (uint64_t)hits;
	}
	for (int i = 0; i < N; i++)
		found = found * 31 + best[i];
	return found;
}

/* Sums of products of 16-bit numbers, widened to 32 bits. */
static uint64_t dot_products(void)
{
	enum { N = 8192 };
	static short x[N], y[N];
	for (int i = 0; i < N; i++)
		x[i] = (short)(i * 7 % 251 - 120), y[i] = (short)(i * 11 % 241 - 100);
	uint64_t sum = 0;
	for (int round = 0; round < 24000; round++) {
		long n = N, vl, result;
		const short *a = x, *b = y;
		__asm__ volatile("vsetvli %[vl], zero, e32, m8, ta, ma\n"
				 "vmv.v.i v8, 0\n"
				 "1: vsetvli %[vl], %[n], e16, m4, tu, ma\n"
				 "vle16.v v0, (%[a])\n"
				 "vle16.v v4, (%[b])\n"
				 "vwmacc.vv v8, v0, v4\n"
				 "sub %[n], %[n], %[vl]\n"
				 "slli %[vl], %[vl], 1\n"
				 "add %[a], %[a], %[vl]\n"
				 "add %[b], %[b], %[vl]\n"
				 "bnez %[n], 1b\n"
				 "vsetvli %[vl], zero, e32, m8, ta, ma\n"
				 "vmv.s.x v16, zero\n"
				 "vredsum.vs v16, v8, v16\n"
				 "vmv.x.s %[result], v16\n"
				 : [vl] "=&r"(vl), [n] "+r"(n), [a] "+r"(a), [b] "+r"(b), [result] "=&r"(result)
				 :
				 : "memory");
		sum = sum * 3 + (uint64_t)result;
	}
	return sum;
}

static void copy(void *to, const void *from, long n)
{
	long vl;
	__asm__ volatile("1: vsetvli %[vl], %[n], e8, m8, ta, ma\n"
			 "vle8.v v0, (%[from])\n"
			 "vse8.v v0, (%[to])\n"
			 "sub %[n], %[n], %[vl]\n"
			 "add %[from], %[from], %[vl]\n"
			 "add %[to], %[to], %[vl]\n"
			 "bnez %[n], 1b\n"
			 : [vl] "=&r"(vl), [n] "+r"(n), [from] "+r"(from), [to] "+r"(to)
			 :
			 : "memory");
}

static long length(const char *text)
{
	const char *at = text;
	long vl, first;
	__asm__ volatile("1: vsetvli %[vl], zero, e8, m2, ta, ma\n"
			 "vle8ff.v v8, (%[at])\n"
			 "csrr %[vl], vl\n"
			 "vmseq.vi v0, v8, 0\n"
			 "vfirst.m %[first], v0\n"
			 "add %[at], %[at], %[vl]\n"
			 "bltz %[first], 1b\n"
			 "sub %[at], %[at], %[vl]\n"
			 "add %[at], %[at], %[first]\n"
			 : [vl] "=&r"(vl), [first] "=&r"(first), [at] "+r"(at)
			 :
			 : "memory");
	return at - text;
}

static uint64_t vector_strings(void)
{
	static char from[5000], to[5000];
	uint32_t seed = 3;
	uint64_t sum = 0;
	memset(from, 'x', sizeof from);
	for (int round = 0; round < 480000; round++) {
		long n = (long)(next_random(&seed) % 600) + 1;
		from[n - 1] = 0;
		copy(to, from, n);
		sum += (uint64_t)length(to);
		from[n - 1] = 'x';
	}
	return sum;
}

/* Clamps and counts under masks. */
static uint64_t masked(void)
{
	enum { N = 16384 };
	static int data[N];
	uint32_t seed = 7;
	for (int i = 0; i < N; i++)
		data[i] = (int)(next_random(&seed) % 100000);
	for (long round = 0; round < 3000; round++) {
		long n = N, vl;
		int *at = data;
		__asm__ volatile("1: vsetvli %[vl], %[n], e32, m2, ta, mu\n"
				 "vle32.v v8, (%[at])\n"
				 "vmsgt.vx v0, v8, %[limit]\n"
				 "vrsub.vx v8, v8, %[limit], v0.t\n"
				 "vadd.vx v8, v8, %[step]\n"
				 "vmslt.vx v0, v8, zero\n"
				 "vmerge.vim v8, v8, 0, v0\n"
				 "vse32.v v8, (%[at])\n"
				 "sub %[n], %[n], %[vl]\n"
				 "slli %[vl], %[vl], 2\n"
				 "add %[at], %[at], %[vl]\n"
				 "bnez %[n], 1b\n"
				 : [vl] "=&r"(vl), [n] "+r"(n), [at] "+r"(at)
				 : [limit] "r"(60000L + round), [step] "r"(round * 3)
				 : "memory");
	}
	uint64_t sum = 0;
	for (int i = 0; i < N; i++)
		sum = sum * 31 + (uint64_t)data[i];
	return sum;
}

const struct bench_case vector_cases[] = {
	{ "float", "axpy-single", axpy_single },
	{ "float", "dgemm", dgemm },
	{ "float", "byte-vectors", byte_vectors },
	{ "float", "dot-products", dot_products },
	{ "float", "vector-strings", vector_strings },
	{ "float", "masked", masked },
	{ 0, 0, 0 },
};
