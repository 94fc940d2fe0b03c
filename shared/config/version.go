package config

import "runtime/debug"

// Version is the release that was built, set by the linker:
// -ldflags "-X canopy/shared/config.Version=1.2.3".
var Version = ""

// Build gives the version and the commit of this program: what the linker or Go's build
// recorded, and "dev" and "unknown" where neither did. A commit with changes that were
// not committed ends in "-dirty".
func Build() (version, commit string) {
	version, commit = Version, "unknown"
	info, ok := debug.ReadBuildInfo()
	if ok {
		commit = commitOf(info.Settings)
		if version == "" && info.Main.Version != "(devel)" {
			version = info.Main.Version
		}
	}
	if version == "" {
		version = "dev"
	}
	return version, commit
}

func commitOf(settings []debug.BuildSetting) string {
	commit, dirty := "unknown", ""
	for _, s := range settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	return commit + dirty
}
