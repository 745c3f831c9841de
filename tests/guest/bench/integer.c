/* The integer suite. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

static uint64_t table_crc(void)
{
	static uint32_t table[256];
	static unsigned char data[65536];
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;
		for (int k = 0; k < 8; k++)
			c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
		table[i] = c;
	}
	uint32_t seed = 1;
	for (size_t i = 0; i < sizeof data; i++)
		data[i] = (unsigned char)next_random(&seed);
	uint32_t crc = ~0u;
	for (int round = 0; round < 4200; round++)
		for (size_t i = 0; i < sizeof data; i++)
			crc = table[(crc ^ data[i]) & 0xff] ^ crc >> 8;
	return crc;
}

static uint64_t sieve(void)
{
	enum { N = 4000000 };
	unsigned char *composite = malloc(N);
	uint64_t sum = 0;
	for (int round = 0; round < 14; round++) {
		memset(composite, 0, N);
		for (unsigned i = 2; i * i < N; i++)
			if (!composite[i])
				for (unsigned j = i * i; j < N; j += i)
					composite[j] = 1;
		for (unsigned i = 2; i < N; i++)
			if (!composite[i])
				sum += i;
	}
	free(composite);
	return sum;
}

static void sort_range(uint32_t *a, int low, int high)
{
	while (low < high) {
		uint32_t pivot = a[(low + high) / 2];
		int i = low, j = high;
		while (i <= j) {
			while (a[i] < pivot)
				i++;
			while (a[j] > pivot)
				j--;
			if (i <= j) {
				uint32_t t = a[i];
				a[i++] = a[j];
				a[j--] = t;
			}
		}
		if (j - low < high - i) {
			sort_range(a, low, j);
			low = i;
		} else {
			sort_range(a, i, high);
			high = j;
		}
	}
}

static uint64_t quicksort(void)
{
	enum { N = 1000000 };
	uint32_t *a = malloc(N * sizeof *a);
	uint64_t sum = 0;
	for (uint32_t round = 1; round <= 8; round++) {
		uint32_t seed = round;
		for (int i = 0; i < N; i++)
			a[i] = next_random(&seed);
		sort_range(a, 0, N - 1);
		for (int i = 0; i < N; i += 1000)
			sum = sum * 31 + a[i];
	}
	free(a);
	return sum;
}

static __attribute__((noinline)) unsigned fib(unsigned n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t recursive_calls(void)
{
	/* Through a volatile argument, so that nothing is computed beforehand. */
	volatile unsigned n = 39;
	return fib(n);
}

#define OPERATION(name, expression) \
	static __attribute__((noinline)) uint32_t name(uint32_t x) { return expression; }
OPERATION(op_add, x + 0x9e3779b9u)
OPERATION(op_xor, x ^ x >> 7)
OPERATION(op_multiply, x * 2654435761u)
OPERATION(op_rotate, x << 11 | x >> 21)
OPERATION(op_not, ~x)
OPERATION(op_subtract, x - 12345u)
OPERATION(op_mix, (x ^ 61) ^ x >> 16)
OPERATION(op_shift, x + (x << 3))

static uint64_t indirect_calls(void)
{
	static uint32_t (*const volatile table[])(uint32_t) = {
		op_add, op_xor, op_multiply, op_rotate, op_not, op_subtract, op_mix, op_shift,
	};
	uint32_t x = 1;
	for (unsigned i = 0; i < 100000000; i++)
		x = table[(x ^ i) & 7](x);
	return x;
}

/* A register machine with eight opcodes, run by a switch. */
static uint64_t bytecode_interpreter(void)
{
	enum { ADD, SUB, XOR, SHIFT, LOAD, STORE, JUMP_NZ, DECREMENT };
	static const unsigned char program[][4] = {
		{ ADD, 1, 2, 0 },   { XOR, 3, 1, 0 },  { SHIFT, 2, 3, 0 }, { STORE, 3, 1, 0 },
		{ LOAD, 4, 2, 0 },  { SUB, 1, 4, 0 },  { ADD, 5, 1, 0 },   { DECREMENT, 0, 0, 0 },
		{ JUMP_NZ, 0, 0, 0 },
	};
	uint32_t r[8] = { 14000000, 1, 2, 3, 4, 5, 6, 7 }, memory[256] = { 0 };
	for (unsigned pc = 0; pc < sizeof program / sizeof *program;) {
		const unsigned char *i = program[pc++];
		switch (i[0]) {
		case ADD: r[i[1]] += r[i[2]]; break;
		case SUB: r[i[1]] -= r[i[2]]; break;
		case XOR: r[i[1]] ^= r[i[2]]; break;
		case SHIFT: r[i[1]] = r[i[1]] << 5 | r[i[2]] >> 27; break;
		case LOAD: r[i[1]] = memory[r[i[2]] & 255]; break;
		case STORE: memory[r[i[1]] & 255] = r[i[2]]; break;
		case JUMP_NZ: if (r[i[1]]) pc = i[2]; break;
		case DECREMENT: r[i[1]]--; break;
		}
	}
	return r[5] ^ (uint64_t)r[3] << 32;
}

static uint64_t pointer_chasing(void)
{
	enum { N = 1 << 18 };
	struct node {
		struct node *next;
		uint64_t value;
	} *nodes = malloc(N * sizeof *nodes);
	uint32_t *order = malloc(N * sizeof *order), seed = 7;
	for (uint32_t i = 0; i < N; i++)
		order[i] = i;
	for (uint32_t i = N - 1; i > 0; i--) {
		uint32_t j = next_random(&seed) % (i + 1), t = order[i];
		order[i] = order[j];
		order[j] = t;
	}
	for (uint32_t i = 0; i < N; i++) {
		nodes[order[i]].next = &nodes[order[(i + 1) % N]];
		nodes[order[i]].value = i;
	}
	uint64_t sum = 0;
	struct node *p = nodes;
	for (int i = 0; i < 100 * N; i++) {
		sum += p->value ^ (uint64_t)i;
		p = p->next;
	}
	free(order);
	free(nodes);
	return sum;
}

static uint64_t string_formatting(void)
{
	char line[256];
	uint64_t sum = 0;
	uint32_t seed = 3;
	for (int i = 0; i < 900000; i++) {
		uint32_t a = next_random(&seed), b = next_random(&seed);
		int n = snprintf(line, sizeof line, "%u: %08x %-12d|%s|%5.5s %lu", a % 1000, b, (int)a, "some text", "truncated",
				 (unsigned long)b * 7);
		sum = sum * 31 + (unsigned char)line[n / 2] + (uint64_t)n + strlen(line) + (strchr(line, '|') - line);
	}
	return sum;
}

static uint64_t shell_loop(void)
{
	static const char script[] =
		"i=0; s=0; while [ $i -lt 50000 ]; do i=$((i+1)); s=$(((s*31+i)%1000003)); case $s in *7) s=$((s+1));; esac; done; "
		"echo $s";
	int pipes[2];
	if (pipe(pipes))
		return 0;
	pid_t pid = fork();
	if (pid == 0) {
		dup2(pipes[1], 1);
		close(pipes[0]);
		execl("/bin/sh", "sh", "-c", script, (char *)NULL);
		_exit(127);
	}
	close(pipes[1]);
	char answer[64] = { 0 };
	ssize_t n = read(pipes[0], answer, sizeof answer - 1);
	close(pipes[0]);
	waitpid(pid, NULL, 0);
	return n > 0 ? strtoull(answer, NULL, 10) : 0;
}

/* Short processes: fork, execute, wait. */
static uint64_t processes(void)
{
	uint64_t sum = 0;
	for (int i = 0; i < 400; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			execl("/bin/true", "true", (char *)NULL);
			_exit(1);
		}
		int status = 1;
		waitpid(pid, &status, 0);
		sum += (uint64_t)(WIFEXITED(status) && !WEXITSTATUS(status));
	}
	return sum;
}

const struct bench_case integer_cases[] = {
	{ "integer", "table-crc", table_crc },
	{ "integer", "sieve", sieve },
	{ "integer", "quicksort", quicksort },
	{ "integer", "recursive-calls", recursive_calls },
	{ "integer", "indirect-calls", indirect_calls },
	{ "integer", "bytecode", bytecode_interpreter },
	{ "integer", "pointer-chasing", pointer_chasing },
	{ "integer", "string-formatting", string_formatting },
	{ "integer", "shell-loop", shell_loop },
	{ "system", "processes", processes },
	{ 0, 0, 0 },
};
