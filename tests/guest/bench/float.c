/* The part of the floating-point and vector suite that is the same C everywhere. */
#include <math.h>
#include <string.h>

#include "bench.h"

static uint64_t bits(double value)
{
	uint64_t b;
	memcpy(&b, &value, 8);
	return b;
}

static uint64_t mandelbrot(void)
{
	uint64_t sum = 0;
	for (int y = 0; y < 750; y++)
		for (int x = 0; x < 400; x++) {
			double cr = x / 160.0 - 2.0, ci = y / 375.0 - 1.0, zr = 0, zi = 0;
			int i = 0;
			for (; i < 200 && zr * zr + zi * zi < 4; i++) {
				double t = zr * zr - zi * zi + cr;
				zi = 2 * zr * zi + ci;
				zr = t;
			}
			sum += (uint64_t)i;
		}
	return sum;
}

static uint64_t n_body(void)
{
	enum { N = 5 };
	double p[N][3], v[N][3], m[N];
	uint32_t seed = 5;
	for (int i = 0; i < N; i++) {
		m[i] = 1 + next_random(&seed) % 100 / 50.0;
		for (int k = 0; k < 3; k++) {
			p[i][k] = next_random(&seed) % 1000 / 100.0;
			v[i][k] = next_random(&seed) % 1000 / 10000.0;
		}
	}
	for (int step = 0; step < 600000; step++) {
		for (int i = 0; i < N; i++)
			for (int j = i + 1; j < N; j++) {
				double d[3], square = 0.01;
				for (int k = 0; k < 3; k++) {
					d[k] = p[i][k] - p[j][k];
					square += d[k] * d[k];
				}
				double force = 0.001 / (square * sqrt(square));
				for (int k = 0; k < 3; k++) {
					v[i][k] -= d[k] * m[j] * force;
					v[j][k] += d[k] * m[i] * force;
				}
			}
		for (int i = 0; i < N; i++)
			for (int k = 0; k < 3; k++)
				p[i][k] += 0.001 * v[i][k];
	}
	return bits(p[0][0] + p[1][1] + p[2][2]);
}

static uint64_t library(void)
{
	double sum = 0;
	for (int i = 1; i < 1000000; i++) {
		double x = i * 0.001;
		sum += sin(x) + exp(-x) + log(x) + atan(x) + pow(x, 0.25);
	}
	return bits(sum);
}

const struct bench_case float_cases[] = {
	{ "float", "mandelbrot", mandelbrot },
	{ "float", "n-body", n_body },
	{ "float", "libm", library },
	{ 0, 0, 0 },
};
