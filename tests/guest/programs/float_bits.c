/* Floating point whose result bits are printed: a guest must print what the host's processor prints.
 *
 * Only operations that IEEE 754 or the instruction set defines exactly are used (no x87 transcendental functions),
 * over normal numbers, denormals, zeros, infinities and NaNs, in all rounding modes. */
#include <fenv.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) || defined(__SSE2__)
#include <emmintrin.h>
#endif

static uint64_t hash = 14695981039346656037ull;
static unsigned count;
static unsigned shown_from;

static void note(const char *name, const void *value, size_t size)
{
	const unsigned char *bytes = value;
	for (size_t i = 0; i < size; i++)
		hash = (hash ^ bytes[i]) * 1099511628211ull;
	/* Every result is in the hash; every 97th is shown with the hash so far, so that a difference can be placed.
	 * A number as the argument shows the results after that one, to see which it was. */
	int closely = shown_from && count >= shown_from && count < shown_from + 97;
	if (count++ % 97 == 0 || closely) {
		printf("%s %u ", name, count);
		for (size_t i = size; i-- > 0;)
			printf("%02x", bytes[i]);
		printf(" %04x\n", (unsigned)(hash & 0xffff));
	}
}

/* The significant 10 bytes of the x87 format. */
static void note_extended(const char *name, long double value)
{
	note(name, &value, 10);
}

static const uint64_t double_patterns[] = {
	0x0000000000000000, 0x8000000000000000, 0x0000000000000001, 0x000fffffffffffff, 0x0010000000000000,
	0x3ff0000000000000, 0xbff0000000000000, 0x3ff0000000000001, 0x3fefffffffffffff, 0x4008000000000000,
	0x3fd5555555555555, 0x7fefffffffffffff, 0xffefffffffffffff, 0x7ff0000000000000, 0xfff0000000000000,
	0x7ff8000000000000, 0x7ff0000000000001, 0xfff8000000001234, 0x41dfffffffc00000, 0xc1e0000000000000,
	0x43e0000000000000, 0x3690000000000000, 0x47efffffe0000000, 0x4340000000000001,
};
#define PATTERNS (sizeof double_patterns / sizeof *double_patterns)

static void in_rounding_mode(void)
{
	for (unsigned i = 0; i < PATTERNS; i++) {
		volatile double a;
		memcpy((void *)&a, &double_patterns[i], 8);
		volatile float fa = (float)a;
		float f = fa;
		note("cvtsd2ss", &f, 4);
		double root = sqrt(a);
		note("sqrtsd", &root, 8);
		float froot = sqrtf(fa);
		note("sqrtss", &froot, 4);
		int32_t narrow = 0;
		if (fabs(a) < 2e9) {
			narrow = (int32_t)a;
			note("cvttsd2si", &narrow, 4);
			long rounded = lrint(a);
			int32_t low = (int32_t)rounded;
			note("cvtsd2si", &low, 4);
		}
		note_extended("fld", (long double)a);
		for (unsigned j = 0; j < PATTERNS; j++) {
			volatile double b;
			memcpy((void *)&b, &double_patterns[j], 8);
			volatile float fb = (float)b;
			double r;
			float s;
			r = a + b, note("addsd", &r, 8);
			r = a - b, note("subsd", &r, 8);
			r = a * b, note("mulsd", &r, 8);
			r = a / b, note("divsd", &r, 8);
			s = fa + fb, note("addss", &s, 4);
			s = fa * fb, note("mulss", &s, 4);
			s = fa / fb, note("divss", &s, 4);
			unsigned char order = (unsigned char)((a < b) | (a > b) << 1 | (a == b) << 2 | (a != a) << 3);
			note("ucomisd", &order, 1);
			volatile long double la = a, lb = b;
			note_extended("fadd", la + lb);
			note_extended("fsub", la - lb);
			note_extended("fmul", la * lb);
			note_extended("fdiv", la / lb);
			/* The width of the destination decides a second rounding. */
			r = (double)(la / lb), note("fst64", &r, 8);
			s = (float)(la * lb), note("fst32", &s, 4);
			note_extended("frndint", rintl(la + lb / 3));
		}
	}
}

#ifdef __SSE2__
static void vectors(void)
{
	uint64_t state = 88172645463325252ull;
	for (int round = 0; round < 2000; round++) {
		uint32_t words[8];
		for (int i = 0; i < 8; i++) {
			state ^= state << 13, state ^= state >> 7, state ^= state << 17;
			words[i] = (uint32_t)(state >> 16);
		}
		__m128i a = _mm_loadu_si128((void *)words), b = _mm_loadu_si128((void *)(words + 4)), r;
		__m128 fa = _mm_cvtepi32_ps(a), fb = _mm_cvtepi32_ps(b), fr;
		__m128d da = _mm_cvtepi32_pd(a), db = _mm_cvtepi32_pd(b), dr;
#define INT(op) r = op(a, b), note(#op, &r, 16)
		INT(_mm_add_epi8); INT(_mm_adds_epi16); INT(_mm_subs_epu8); INT(_mm_mullo_epi16); INT(_mm_mulhi_epu16);
		INT(_mm_madd_epi16); INT(_mm_sad_epu8); INT(_mm_packs_epi32); INT(_mm_packus_epi16); INT(_mm_avg_epu8);
		INT(_mm_unpacklo_epi8); INT(_mm_unpackhi_epi32); INT(_mm_cmpgt_epi16); INT(_mm_max_epu8); INT(_mm_mul_epu32);
		r = _mm_shuffle_epi32(a, 0x1b), note("pshufd", &r, 16);
		r = _mm_srai_epi16(a, 3), note("psraw", &r, 16);
		r = _mm_slli_si128(b, 5), note("pslldq", &r, 16);
		int mask = _mm_movemask_epi8(a);
		note("pmovmskb", &mask, 4);
#define FLOAT(op) fr = op(fa, fb), note(#op, &fr, 16)
		FLOAT(_mm_add_ps); FLOAT(_mm_sub_ps); FLOAT(_mm_mul_ps); FLOAT(_mm_div_ps); FLOAT(_mm_min_ps);
		FLOAT(_mm_cmplt_ps); FLOAT(_mm_unpacklo_ps);
		fr = _mm_sqrt_ps(_mm_and_ps(fa, _mm_castsi128_ps(_mm_set1_epi32(0x7fffffff)))), note("sqrtps", &fr, 16);
		dr = _mm_div_pd(da, db), note("divpd", &dr, 16);
		dr = _mm_max_pd(da, db), note("maxpd", &dr, 16);
		r = _mm_cvtps_epi32(_mm_div_ps(fa, fb)), note("cvtps2dq", &r, 16);
		r = _mm_cvttpd_epi32(dr), note("cvttpd2dq", &r, 16);
	}
}
#endif

#ifdef __x86_64__
static void library(void)
{
	for (int i = 1; i < 4000; i++) {
		double x = i * 0.37 - 500, r;
		r = sin(x), note("sin", &r, 8);
		r = exp(x / 100), note("exp", &r, 8);
		r = log(fabs(x)), note("log", &r, 8);
		r = pow(fabs(x), 0.3), note("pow", &r, 8);
		r = atan2(x, 7), note("atan2", &r, 8);
		float s = cosf((float)x);
		note("cosf", &s, 4);
	}
}
#endif

int main(int argc, char **argv)
{
	if (argc > 1)
		shown_from = (unsigned)atoi(argv[1]);
	static const int modes[] = { FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO };
	for (unsigned i = 0; i < 4; i++) {
		fesetround(modes[i]);
		in_rounding_mode();
	}
	fesetround(FE_TONEAREST);
	feclearexcept(FE_ALL_EXCEPT);
	volatile double zero = 0, one = 1, three = 3;
	volatile double sink = one / zero;
	int flags = fetestexcept(FE_ALL_EXCEPT);
	note("flags", &flags, 4);
	sink = one / three;
	flags = fetestexcept(FE_ALL_EXCEPT);
	note("flags", &flags, 4);
	(void)sink;
#ifdef __SSE2__
	vectors();
#endif
#ifdef __x86_64__
	/* On 32 bits the C library uses x87 transcendental functions, which differ between processors. */
	library();
#endif
	printf("float_bits %u results %016llx\n", count, (unsigned long long)hash);
	return 0;
}
