package authz

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// pasted is an API key that somebody has put where it does not belong. No error may show
// even a part of it.
const pasted = "drg_012345_01234567890123456789012345678920BetF"

// shows reports whether a text repeats a part of the pasted key that means something.
func shows(text string) bool {
	for at := 0; at+8 <= len(pasted); at += 4 {
		if strings.Contains(text, pasted[at:at+8]) {
			return true
		}
	}
	return false
}

// forms are ways to write the key as a part of YAML, some of them wrong.
var forms = []string{
	"%", `"%"`, `'%'`, `"%`, `'%`, "`%`", "*%", "&%", "&% x", "!%", "!<%", "!!%", "!%!x", "%%", "@%", "|%", ">%", "#%", "? %", "- %", "[%", "{%",
	"%: x", "%: ", `"%\q"`, `"%\x"`, "'%' %", "% '%'", "x: %: y", "{%: %}", "[%, *%]", "<<: %", "%\n", "\n%\n", "\t%", "%\t: x", "%\x00", "%\xff",
	"--- %", "... %", "%TAG ! %", "%YAML %", "% into int", "% already set in type x", "invalid map key: %", "field % not found", "\"a`%`b\"", `{"%": 1, "%": 2}`,
	"x\" %", "`% into `", "' referenced %", "{? {%: x} : y}", "!!int %", "!!binary %", "!!float %", "!!timestamp %", "!!bool %", "!!null %", "!!map %",
}

// files gives files that have a form at one place of a good one: before each of its words,
// or instead of it. It leaves out all but one in so many of them.
func files(oneIn int, each func(content string)) {
	good := strings.TrimPrefix(example, "\n")
	for n, form := range forms {
		form = strings.ReplaceAll(strings.ReplaceAll(form, "%%", "\x01"), "%", pasted)
		form = strings.ReplaceAll(form, "\x01", "%"+pasted)
		each(form)
		for at := 0; at < len(good); {
			end := at + strings.IndexAny(good[at:]+" ", " \n,:[]{}")
			if n++; n%oneIn == 0 {
				each(good[:at] + form + good[at:])
				each(good[:at] + form + good[end:])
			}
			at = end + 1
		}
	}
}

// TestNoErrorShowsAKeyThatWasPastedAnywhere tries one file in five, or all of them with
// CANOPY_TEST_PASTED=all.
func TestNoErrorShowsAKeyThatWasPastedAnywhere(t *testing.T) {
	oneIn := 5
	switch all := os.Getenv("CANOPY_TEST_PASTED"); all {
	case "":
	case "all":
		oneIn = 1
	default:
		t.Fatalf("CANOPY_TEST_PASTED is %q, want all", all)
	}
	refused := 0
	files(oneIn, func(content string) {
		_, err := parse([]byte(content))
		if err == nil {
			return
		}
		refused++
		if shows(err.Error()) {
			t.Errorf("%q: the error shows the key: %v", content, err)
		}
	})
	t.Logf("%d files were refused", refused)
	if refused < 1000 {
		t.Errorf("%d files were refused, too few to show anything", refused)
	}
}

func TestNoLogShowsAKeyThatWasPastedIntoANewVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "applications.yaml")
	write := func(content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(example)
	core, logs := observer.New(zapcore.DebugLevel)
	f, err := OpenFile(path, zap.New(core), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{
		"applications:\n  " + pasted + ": {members: {b: read}}\n",
		"applications: {}\napi_keys:\n  - " + pasted + "\n",
		"applications: {a: {members: {\"" + pasted + "\": [" + pasted + "]}}}\n",
	} {
		before := logs.FilterLevelExact(zapcore.ErrorLevel).Len()
		write(content)
		f.seen = nil
		f.reload() // sees another version
		f.reload() // sees it once more
		if logs.FilterLevelExact(zapcore.ErrorLevel).Len() != before+1 {
			t.Fatalf("%q was not refused", content)
		}
	}
	for _, entry := range logs.All() {
		text, err := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()).EncodeEntry(entry.Entry, entry.Context)
		if err != nil {
			t.Fatal(err)
		}
		if shows(text.String()) {
			t.Errorf("the log shows the key: %s", text)
		}
	}
}

// FuzzNoErrorShowsWhatStandsInTheFile puts the key between two parts of a file.
func FuzzNoErrorShowsWhatStandsInTheFile(f *testing.F) {
	for _, parts := range [][2]string{
		{"applications: {", "}"}, {"applications:\n  a: {members: {b: [", "]}}"}, {"api_keys:\n  - *", "\n"},
		{"applications: {}\napi_keys: [{user: \"", "\\q\"}]"}, {"? [", "]\n: 1"}, {"a: &", " [*x]"},
	} {
		f.Add(parts[0], parts[1])
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		if _, err := parse([]byte(before + pasted + after)); err != nil && shows(err.Error()) {
			t.Errorf("%q: %v", before+pasted+after, err)
		}
	})
}
