# Digests of generated data: host and guest must agree.
data() { awk -v n="$1" 'BEGIN { x = 12345; for (i = 0; i < n; i++) { x = (x * 1103 + 12345) % 1048576; print x, x / 7 } }'; }
data 20000 | md5sum
data 20000 | sha1sum
data 20000 | sha256sum
data 3000 | sort -n | uniq -c | sort -rn | head -3
data 500 | gzip -n -c 2>/dev/null | gunzip -c | md5sum
seq 1 2000 | while read n; do echo $((n * n % 97)); done | sort | uniq -c | md5sum
yes abc | head -c 200000 | tr a-c x-z | sed 's/y/[&]/' | sha256sum
