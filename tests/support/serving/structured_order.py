"""A pydantic model with all that structured output has to carry: nested models, enums, options, unions, Chinese names.

It imports nothing of ours: libraries in an environment of their own use it too. It has no bounds of numbers and texts:
some libraries write those into descriptions.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal

from pydantic import BaseModel, Field

Size = Enum("Size", {"大": "大", "小": "小"})


class Item(BaseModel):
    """One of the things that are ordered: 一件商品."""

    number: Literal[1, 2, 3] = Field(alias="编号", description="商品编号")
    size: Size = Field(alias="规格")
    note: Literal["急", "轻放"] | None = Field(None, alias="备注")


class Cash(BaseModel):
    kind: Literal["现金"] = Field(alias="方式")


class Transfer(BaseModel):
    kind: Literal["转账"] = Field(alias="方式")
    bank: Literal["工行", "农行"] = Field(alias="银行")


class Order(BaseModel):
    """An order: 订单."""

    items: list[Item] = Field(alias="商品", min_length=1, max_length=2)
    payment: Cash | Transfer = Field(alias="付款")
    urgent: bool | None = None
