package group

import "context"

func (h *Hub) missed(ctx context.Context, g *Group) {}
