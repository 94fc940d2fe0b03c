package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// A client is a program that receives events, with what it cannot do.
type client struct {
	name    string
	version string
	needs   []string // parts, which must be installed
	// cannot names the cases that the client has no way to do, with the reason.
	cannot map[string]string
	// comesBack clients open a new connection by themselves; the others are started again.
	comesBack bool
	// typed clients send what stands on their standard input; the others refresh tokens by
	// themselves.
	typed bool
	// signsIn clients cannot do without.
	signsIn bool
	command func(ctx context.Context, t trial, c call) (*exec.Cmd, error)
}

const (
	noHeaders = "it cannot set headers"
	noQuery   = "it signs in with headers"
	sendsNone = "it sends nothing"
)

var clients = []client{
	{name: "websocat", version: websocatVersion, needs: []string{"websocat"}, typed: true, command: websocat},
	{name: "wscat", version: "6.1.0", needs: []string{"npm"}, typed: true, command: wscat},
	{name: "browser", version: "the page in Chromium", needs: []string{"npm", "chromium"}, comesBack: true,
		cannot: map[string]string{"key": noHeaders, "token": noHeaders}, command: browser},
	{name: "Python", version: "websockets 17.4", needs: []string{"python"}, comesBack: true, command: python},
	{name: "Rust", version: "tungstenite 0.30", needs: []string{"rust"}, comesBack: true,
		cannot: map[string]string{"refresh": sendsNone}, command: rust},
	{name: "seed", version: "tungstenite 0.15", needs: []string{"rust"},
		cannot: map[string]string{"key": noHeaders, "token": noHeaders, "refresh": sendsNone}, command: seed},
	{name: "drg", version: drgVersion, needs: []string{"drg"}, signsIn: true,
		cannot: map[string]string{"key=": noQuery, "token=": noQuery, "group": "it has no option for groups", "resume": "it has no option for since"}, command: drg},
	{name: "Go", version: "edge/client", needs: []string{"go"}, comesBack: true,
		cannot: map[string]string{"key=": noQuery, "token=": noQuery}, command: goExample},
	{name: "canopy-stream", version: "edge/client", comesBack: true,
		cannot: map[string]string{"key=": noQuery, "token=": noQuery}, command: canopyStream},
}

func websocat(ctx context.Context, _ trial, c call) (*exec.Cmd, error) {
	var args []string
	if header := c.header(); header != "" {
		args = append(args, "-H=Authorization: "+header)
	}
	return command(ctx, nil, filepath.Join(cache, "websocat/bin/websocat"), append(args, c.url())...), nil
}

func wscat(ctx context.Context, _ trial, c call) (*exec.Cmd, error) {
	args := []string{"-c", c.url()}
	switch c.signIn {
	case keyHeader:
		args = append(args, "--auth", c.user+":"+c.key)
	case tokenAlone:
		args = append(args, "-H", "Authorization: "+c.header())
	}
	return command(ctx, nil, filepath.Join(cache, "npm/node_modules/.bin/wscat"), args...), nil
}

func browser(ctx context.Context, t trial, c call) (*exec.Cmd, error) {
	modules, err := filepath.Abs(filepath.Join(cache, "npm"))
	if err != nil {
		return nil, fmt.Errorf("find modules: %w", err)
	}
	program, err := findChromium()
	if err != nil {
		return nil, err
	}
	return command(ctx, []string{"NODE_MODULES_OF=" + modules}, "node", "deployments/clients/browser.mjs", program, t.site.page(c)), nil
}

func python(ctx context.Context, _ trial, c call) (*exec.Cmd, error) {
	return command(ctx, c.environment(), filepath.Join(cache, "python/bin/python"), pythonExample+"/stream.py", c.url()), nil
}

func rust(ctx context.Context, _ trial, c call) (*exec.Cmd, error) {
	return command(ctx, c.environment(), filepath.Join(cache, "rust/debug/canopy-example"), c.url()), nil
}

func seed(ctx context.Context, _ trial, c call) (*exec.Cmd, error) {
	return command(ctx, nil, filepath.Join(cache, "rust/debug/seed"), c.base(), c.path()), nil
}

// drg 0.11.0 takes the channel from --device; see numbered.
func drg(ctx context.Context, t trial, c call) (*exec.Cmd, error) {
	config, err := t.site.drogueConfig(t.folder, c)
	if err != nil {
		return nil, err
	}
	args := []string{"-C", config, "stream", "-a", c.application}
	if c.channel != "" {
		args = append(args, "--device", c.channel)
	}
	return command(ctx, nil, filepath.Join(cache, "drg/bin/drg"), args...), nil
}

func goExample(ctx context.Context, _ trial, c call) (*exec.Cmd, error) {
	return command(ctx, c.environment(), filepath.Join(cache, "go/example"), "-edge", c.base(),
		"-application", c.application, "-channel", c.channel, "-group", c.group, "-since", c.since), nil
}

func canopyStream(ctx context.Context, _ trial, c call) (*exec.Cmd, error) {
	args := []string{"--raw", "--edge=" + c.base(), c.application}
	for flag, value := range map[string]string{"channel": c.channel, "group": c.group, "since": c.since} {
		if value != "" {
			args = append(args, "--"+flag+"="+value)
		}
	}
	return command(ctx, c.environment(), "bin/canopy-stream", args...), nil
}
