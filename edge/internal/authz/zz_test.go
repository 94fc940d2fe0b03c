package authz
import ("testing";"time";"os")
func FuzzSlow(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("applications: {a: &x {members: {b: [read]}}, c: *x}\napi_keys: [{user: a, sha256: " + hashed("k") + ", expires: 2027-06-30T00:00:00Z}]\n"))
	f.Add([]byte("applications: {<<: {a: {public: yes}}}\n---\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := make(chan struct{})
		go func() { _, _ = parse(b); close(d) }()
		select { case <-d: case <-time.After(time.Second):
			_ = os.WriteFile("/tmp/slow-yaml", b, 0o600)
			t.Fatalf("slow %d", len(b)) }
	})
}
