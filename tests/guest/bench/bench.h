/* A benchmark case: does its work and returns a checksum of what it computed. */
#include <stdint.h>

struct bench_case {
	const char *suite;
	const char *name;
	uint64_t (*run)(void);
};

extern const struct bench_case integer_cases[];
extern const struct bench_case float_cases[];
/* Of the architecture: vectors_*.c. */
extern const struct bench_case vector_cases[];

/* A small generator, the same everywhere. */
static inline uint32_t next_random(uint32_t *state)
{
	uint32_t x = *state;
	x ^= x << 13, x ^= x >> 17, x ^= x << 5;
	return *state = x;
}
