//go:build !race

package gateway

const racing = 1
