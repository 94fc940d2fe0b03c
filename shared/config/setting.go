package config

import (
	"reflect"
	"strconv"
	"strings"
	"time"
)

const (
	// separator stands between the levels of a name.
	separator = "__"

	// number stands for the key in the name of a setting that there may be many of.
	number = "<N>"

	maxNumber = 999
)

var (
	durationType = reflect.TypeFor[time.Duration]()
	settings     = collect()
)

// setting is one field of Config that can be set.
type setting struct {
	name   string // HTTP__BIND_ADDR, or OAUTH__CLIENTS__<N>__CLIENT_ID
	typ    reflect.Type
	def    string
	help   string
	bytes  bool  // a number that counts bytes
	secret bool  // its value is never shown
	index  []int // its field in Config; nil behind a <N>
}

// collect walks Config, so that its tags are the only place that describes settings.
func collect() []setting {
	var all []setting
	var walk func(t reflect.Type, prefix string, index []int, fixed bool)
	walk = func(t reflect.Type, prefix string, index []int, fixed bool) {
		for i := range t.NumField() {
			f := t.Field(i)
			name := prefix + strings.ToUpper(f.Tag.Get("key"))
			at := append(append([]int(nil), index...), i)
			switch {
			case f.Type.Kind() == reflect.Struct:
				walk(f.Type, name+separator, at, fixed)
			case f.Type.Kind() == reflect.Map:
				walk(f.Type.Elem(), name+separator+number+separator, nil, false)
			default:
				s := setting{
					name: name, typ: f.Type, def: f.Tag.Get("default"), help: f.Tag.Get("help"),
					bytes: f.Tag.Get("unit") == "bytes", secret: f.Tag.Get("secret") == "true",
				}
				if fixed {
					s.index = at
				}
				all = append(all, s)
			}
		}
	}
	walk(reflect.TypeFor[Config](), "", nil, true)
	return all
}

// prefixes are the first levels of all names, such as HTTP__: what begins so is ours.
func prefixes() []string {
	t := reflect.TypeFor[Config]()
	list := make([]string, t.NumField())
	for i := range list {
		list[i] = strings.ToUpper(t.Field(i).Tag.Get("key")) + separator
	}
	return list
}

func ours(name string) bool {
	for _, p := range prefixes() {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// lookup finds the setting of a name, in which a number stands where the setting has <N>.
func lookup(name string) (setting, bool) {
	for _, s := range settings {
		before, after, numbered := strings.Cut(s.name, number)
		if !numbered {
			if s.name == name {
				return s, true
			}
			continue
		}
		rest, ok1 := strings.CutPrefix(name, before)
		digits, ok2 := strings.CutSuffix(rest, after)
		if ok1 && ok2 && isNumber(digits) {
			return s, true
		}
	}
	return setting{}, false
}

// settingAbove finds the setting that name lies below, as if that were a level.
func settingAbove(name string) (above string, ok bool) {
	for i := strings.LastIndex(name, separator); i > 0 && !ok; i = strings.LastIndex(name[:i], separator) {
		above = name[:i]
		_, ok = lookup(above)
	}
	return above, ok
}

// isNumber accepts one spelling for each number, so that two names never mean one thing.
func isNumber(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= 0 && n <= maxNumber && strconv.Itoa(n) == s
}

// isGroup says whether name is a level above settings, such as HTTP__CORS.
func isGroup(name string) bool {
	for _, s := range settings {
		if strings.HasPrefix(s.name, name+separator) || name+separator+number == s.name {
			return true
		}
	}
	return false
}

// nearest is the known name that name was probably meant to be, "" if none is near.
func nearest(name string) string {
	best, least := "", 1+max(2, len(name)/4)
	for _, s := range settings {
		if d := distance(name, s.name); d < least {
			best, least = s.name, d
		}
	}
	return best
}

// distance is Levenshtein's: how many bytes to insert, delete or replace.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
