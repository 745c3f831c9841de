/* Runs benchmark cases by name (all without arguments): "BENCH suite name seconds checksum", one line each. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "bench.h"

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void run(const struct bench_case *c, int argc, char **argv)
{
	int wanted = argc < 2;
	for (int i = 1; i < argc; i++)
		wanted |= !strcmp(argv[i], c->name);
	if (!wanted)
		return;
	double start = now();
	uint64_t checksum = c->run();
	printf("BENCH %s %s %.6f %016llx\n", c->suite, c->name, now() - start, (unsigned long long)checksum);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	for (const struct bench_case *c = integer_cases; c->name; c++)
		run(c, argc, argv);
	for (const struct bench_case *c = float_cases; c->name; c++)
		run(c, argc, argv);
	for (const struct bench_case *c = vector_cases; c->name; c++)
		run(c, argc, argv);
	printf("BENCH-END\n");
	return 0;
}
