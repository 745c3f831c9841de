/* A fork storm, pipes, signals and shared memory between processes: what an operating system asks of its processor.
 * Prints a checksum that does not depend on scheduling. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* Children that each compute a number and leave with it. */
static unsigned fork_storm(int children)
{
	unsigned sum = 0;
	for (int done = 0; done < children; done += 20) {
		for (int i = 0; i < 20; i++) {
			pid_t pid = fork();
			if (pid < 0)
				die("fork");
			if (pid == 0) {
				unsigned h = (unsigned)(done + i) * 2654435761u;
				/* Touch fresh and shared pages, for copy-on-write faults. */
				char *page = malloc(65536);
				memset(page, (int)h, 65536);
				_exit((h >> 16 ^ (unsigned char)page[4097]) & 0x7f);
			}
		}
		for (int i = 0; i < 20; i++) {
			int status;
			if (wait(&status) < 0 || !WIFEXITED(status))
				die("wait");
			sum += (unsigned)WEXITSTATUS(status);
		}
	}
	return sum;
}

/* Bytes through a chain of processes, each of which changes them. */
static uint32_t pipe_chain(int stages, int bytes)
{
	int in[2];
	if (pipe(in))
		die("pipe");
	int first = in[1], last = in[0];
	for (int s = 0; s < stages; s++) {
		int out[2];
		if (pipe(out))
			die("pipe");
		pid_t pid = fork();
		if (pid < 0)
			die("fork");
		if (pid == 0) {
			unsigned char buffer[777];
			ssize_t n;
			close(first), close(out[0]);
			while ((n = read(last, buffer, sizeof buffer)) > 0) {
				for (ssize_t i = 0; i < n; i++)
					buffer[i] = (unsigned char)(buffer[i] * 5 + s);
				if (write(out[1], buffer, (size_t)n) != n)
					_exit(1);
			}
			_exit(0);
		}
		close(last), close(out[1]);
		last = out[0];
	}
	pid_t writer = fork();
	if (writer == 0) {
		close(last);
		for (int i = 0; i < bytes; i++) {
			unsigned char byte = (unsigned char)(i * 7 + i / 256);
			if (write(first, &byte, 1) != 1)
				_exit(1);
		}
		_exit(0);
	}
	close(first);
	uint32_t sum = 1;
	unsigned char buffer[512];
	ssize_t n;
	while ((n = read(last, buffer, sizeof buffer)) > 0)
		for (ssize_t i = 0; i < n; i++)
			sum = sum * 31 + buffer[i];
	close(last);
	while (wait(NULL) > 0)
		;
	return sum;
}

static volatile sig_atomic_t signals;

static void on_signal(int number)
{
	(void)number;
	signals++;
}

/* Two processes that increment shared counters with atomic instructions. */
static unsigned shared_counters(int rounds)
{
	unsigned *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		die("mmap");
	for (int child = 0; child < 4; child++)
		if (fork() == 0) {
			for (int i = 0; i < rounds; i++) {
				__atomic_fetch_add(&shared[0], 3, __ATOMIC_SEQ_CST);
				unsigned old = __atomic_load_n(&shared[1], __ATOMIC_RELAXED);
				while (!__atomic_compare_exchange_n(&shared[1], &old, old + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
					;
				__atomic_fetch_xor(&shared[2], (unsigned)i * 40503u, __ATOMIC_SEQ_CST);
			}
			_exit(0);
		}
	while (wait(NULL) > 0)
		;
	return shared[0] ^ shared[1] << 8 ^ shared[2];
}

int main(void)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	printf("fork_storm %u\n", fork_storm(400));
	printf("pipe_chain %08x\n", (unsigned)pipe_chain(6, 20000));
	signal(SIGUSR1, on_signal);
	for (int i = 0; i < 5000; i++)
		raise(SIGUSR1);
	printf("signals %d\n", (int)signals);
	printf("shared_counters %08x\n", shared_counters(50000));
	return 0;
}
