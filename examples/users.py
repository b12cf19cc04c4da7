from motia_redis import step, http, state, FlowContext, ApiRequest, ApiResponse, StateTriggerInput

# Step 1: Create user via API
user_api = step({
    "name": "CreateUser",
    "triggers": [http("POST", "/users")],
})

async def create_handler(request: ApiRequest, ctx: FlowContext) -> ApiResponse:
    body = request.body or {}
    
    user_id = f"user-{ctx.trace_id[:8]}"
    
    # Create user in state
    user = {
        "id": user_id,
        "name": body.get("name"),
        "email": body.get("email"),
        "login_count": 0,
        "created_at": ctx.trace_id,
    }
    
    await ctx.state.set("users", user_id, user)
    
    ctx.logger.info("User created", {"user_id": user_id})
    return ApiResponse(status=201, body=user)

user_api.handle(create_handler)

# Step 2: Update user login count
login_step = step({
    "name": "RecordLogin",
    "triggers": [http("POST", "/users/:id/login")],
})

async def login_handler(request: ApiRequest, ctx: FlowContext) -> ApiResponse:
    user_id = request.path_params.get("id")
    
    if not user_id:
        return ApiResponse(status=400, body={"error": "User ID required"})
    
    # Check if user exists
    user = await ctx.state.get("users", user_id)
    if not user:
        return ApiResponse(status=404, body={"error": "User not found"})
    
    # Increment login count atomically
    updated = await ctx.state.update("users", user_id, [
        {"op": "increment", "path": "/login_count", "value": 1},
        {"op": "replace", "path": "/last_login", "value": ctx.trace_id},
    ])
    
    ctx.logger.info("Login recorded", {"user_id": user_id, "count": updated["login_count"]})
    return ApiResponse(status=200, body=updated)

login_step.handle(login_handler)

# Step 3: React to user changes
def only_users(input: StateTriggerInput, ctx: FlowContext) -> bool:
    return input.group_id == "users"

user_change_step = step({
    "name": "OnUserChange",
    "triggers": [state(condition=only_users)],
    "enqueues": ["user.changed"],
})

async def change_handler(input: StateTriggerInput, ctx: FlowContext) -> None:
    old_count = input.old_value.get("login_count", 0) if input.old_value else 0
    new_count = input.new_value.get("login_count", 0) if input.new_value else 0
    
    if new_count > old_count:
        ctx.logger.info(f"User {input.item_id} logged in (total: {new_count})")
        
        await ctx.enqueue({
            "topic": "user.changed",
            "data": {
                "user_id": input.item_id,
                "login_count": new_count,
            },
        })

user_change_step.handle(change_handler)

# Step 4: List all users
list_users = step({
    "name": "ListUsers",
    "triggers": [http("GET", "/users")],
})

async def list_handler(request: ApiRequest, ctx: FlowContext) -> ApiResponse:
    users = await ctx.state.list("users")
    
    ctx.logger.info(f"Retrieved {len(users)} users")
    return ApiResponse(status=200, body={"users": users, "count": len(users)})

list_users.handle(list_handler)
