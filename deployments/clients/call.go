package main

import (
	"net/url"
	"time"
)

// A signIn is how a client says who it is.
type signIn int

const (
	anonymous  signIn = iota
	keyHeader         // Authorization: Basic
	keyQuery          // ?username=…&api_key=…
	tokenAlone        // Authorization: Bearer
	tokenQuery        // ?token=
)

// A call is what a client is asked to do: open one socket and print its events.
type call struct {
	edge                        string // host:port
	application, channel, group string
	since                       string
	signIn                      signIn
	user, key                   string
	token                       string
	ttl                         time.Duration // of token
	// tokenFile holds token, and later on a fresh one; "" if this call needs none.
	tokenFile string
}

// path is the application and the channel, with the query that belongs to the call.
func (c call) path() string {
	path := url.PathEscape(c.application)
	if c.channel != "" {
		path += "/" + url.PathEscape(c.channel)
	}
	if query := c.query().Encode(); query != "" {
		path += "?" + query
	}
	return path
}

func (c call) query() url.Values {
	query := url.Values{}
	set := func(name, value string) {
		if value != "" {
			query.Set(name, value)
		}
	}
	set("group_id", c.group)
	set("since", c.since)
	switch c.signIn {
	case keyQuery:
		set("username", c.user)
		set("api_key", c.key)
	case tokenQuery:
		set("token", c.token)
	}
	return query
}

// base is the edge's URL and url the whole one.
func (c call) base() string { return "ws://" + c.edge }
func (c call) url() string  { return c.base() + "/" + c.path() }

// header is the value of Authorization; "" for a call that needs none.
func (c call) header() string {
	switch c.signIn {
	case keyHeader:
		return "Basic " + basic(c.user, c.key)
	case tokenAlone:
		return "Bearer " + c.token
	}
	return ""
}

// environment signs in as Canopy's own programs and examples do it.
func (c call) environment() []string {
	switch {
	case c.signIn == keyHeader:
		return []string{"CANOPY_USER=" + c.user, "CANOPY_KEY=" + c.key}
	case c.signIn == tokenAlone:
		return []string{"CANOPY_TOKEN_FILE=" + c.tokenFile}
	}
	return nil
}
