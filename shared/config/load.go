package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"

	"canopy/shared/yamlproblem"
)

// Read makes a configuration out of the defaults, the YAML file at path ("" for none) and
// environ ("NAME=value" each, the last of a name counts), where the later ones win.
//
// Its error is a Problems and lists everything that is wrong. The configuration is usable
// for further checks even then: it has the defaults where a value was bad.
func Read(path string, environ []string) (Config, error) {
	var problems Problems
	k := koanf.New(separator)
	sources := []map[string]any{defaults(), fromFile(path, &problems), fromEnviron(environ, &problems)}
	for _, values := range sources {
		if err := k.Load(confmap.Provider(values, separator), nil); err != nil {
			problems.add("put settings together: %v", err)
		}
	}
	var cfg Config
	err := k.UnmarshalWithConf("", &cfg, koanf.UnmarshalConf{
		Tag: "key", DecoderConfig: &mapstructure.DecoderConfig{ErrorUnused: true},
	})
	if err != nil {
		problems.add("put settings together: %v", err)
	}
	p := &cfg.Kafka.Properties
	p.SecurityProtocol = strings.ToLower(p.SecurityProtocol)
	p.SASLMechanism = strings.ToUpper(p.SASLMechanism)
	return cfg, problems.orNil()
}

// defaults are the values of the tags. That they parse is a test's matter.
func defaults() map[string]any {
	values := make(map[string]any)
	for _, s := range settings {
		if s.index == nil || s.def == "" {
			continue
		}
		if v, err := s.parse(s.def); err == nil {
			values[strings.ToLower(s.name)] = v
		}
	}
	return values
}

func fromEnviron(environ []string, problems *Problems) map[string]any {
	given := make(map[string]string)
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok && ours(name) {
			given[name] = value
		}
	}
	values := make(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(given)) {
		s, ok := lookup(name)
		if !ok {
			problems.add("%s: %s", name, unknown(name, identity))
			continue
		}
		v, err := s.parse(given[name])
		if err != nil {
			problems.add("%s=%s: %v", name, s.show(given[name]), err)
			continue
		}
		values[strings.ToLower(name)] = v
	}
	return values
}

func fromFile(path string, problems *Problems) map[string]any {
	values := make(map[string]any)
	if path == "" {
		return values
	}
	content, err := file.Provider(path).ReadBytes()
	if err != nil {
		problems.add("--config %s: %v", path, err)
		return values
	}
	k := koanf.New(separator)
	if nested, err := yaml.Parser().Unmarshal(content); err != nil {
		problems.add("--config %s: %s", path, strings.Join(yamlproblem.Of(content, err), "; "))
		return values
	} else if err := k.Load(confmap.Provider(nested, ""), nil); err != nil {
		problems.add("--config %s: %v", path, err)
		return values
	}
	found := k.All()
	listToMap(found)
	for _, key := range slices.Sorted(maps.Keys(found)) {
		where := fmt.Sprintf("%s in %s", strings.ReplaceAll(key, separator, "."), path)
		name, value := strings.ToUpper(key), found[key]
		s, ok := lookup(name)
		if strings.ToLower(key) != key {
			problems.add("%s: unknown setting; names in the file are lower case", where)
			continue
		}
		if above, ok := settingAbove(name); ok {
			// What stands below may be its value, without quotes.
			problem := fmt.Sprintf("%s in %s: expected a value, not settings below this name", dotted(above), path)
			if !slices.Contains(*problems, problem) {
				*problems = append(*problems, problem)
			}
			continue
		}
		if !ok {
			if !emptyGroup(name, value) {
				problems.add("%s: %s", where, unknown(name, dotted))
			}
			continue
		}
		if value == nil {
			continue
		}
		v, err := s.convert(value)
		if err != nil {
			problems.add("%s (%s=%s): %v", where, name, s.show(value), err)
			continue
		}
		values[key] = v
	}
	return values
}

// listToMap lets oauth.clients be a YAML list, too: its elements are numbered from 0.
func listToMap(found map[string]any) {
	const key = "oauth__clients"
	list, ok := found[key].([]any)
	if !ok {
		return
	}
	numbered := make(map[string]any, len(list))
	for i, element := range list {
		numbered[strconv.Itoa(i)] = element
	}
	delete(found, key)
	k := koanf.New(separator)
	// A provider of a map that is at hand cannot fail.
	_ = k.Load(confmap.Provider(map[string]any{key: numbered}, separator), nil)
	maps.Copy(found, k.All())
}

// emptyGroup allows a heading of the file that has nothing below it.
func emptyGroup(name string, value any) bool {
	m, isMap := value.(map[string]any)
	return isGroup(name) && (value == nil || isMap && len(m) == 0)
}

// unknown describes a name that is no setting; spell gives its suggestion the form of
// the place where it was found.
func unknown(name string, spell func(string) string) string {
	if isGroup(name) {
		return "expected settings below this name, not a value"
	}
	if s := nearest(name); s != "" && s != name {
		return fmt.Sprintf("unknown setting; did you mean %s?", spell(s))
	}
	return "unknown setting"
}

func identity(name string) string { return name }

// dotted is a name as the file nests it.
func dotted(name string) string {
	return strings.ReplaceAll(strings.ToLower(strings.ReplaceAll(name, number, "N")), separator, ".")
}
